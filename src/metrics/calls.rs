//! gRPC calls, counted under the names and values that go-grpc-prometheus gave them, so that existing
//! dashboards fit.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, Registry};
use tokio::time::Instant;

use super::Metrics;

/// A method that the server knows, for labels: nothing that a caller can make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `federation.v1.FederationTasks/QueryTask`
    QueryTask,
    /// `federation.v1.FederationTasks/WatchTask`
    WatchTask,
    /// `grpc.health.v1.Health/Check`
    HealthCheck,
    /// `grpc.health.v1.Health/Watch`
    HealthWatch,
    /// `grpc.reflection.v1.ServerReflection/ServerReflectionInfo`
    Reflection,
    /// `grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo`
    ReflectionAlpha,
    /// Anything else.
    Unknown,
}

/// Each method with its type, service and name.
const METHODS: [(Method, &str, &str, &str); 7] = [
    (Method::QueryTask, "unary", "federation.v1.FederationTasks", "QueryTask"),
    (Method::WatchTask, "server_stream", "federation.v1.FederationTasks", "WatchTask"),
    (Method::HealthCheck, "unary", "grpc.health.v1.Health", "Check"),
    (Method::HealthWatch, "server_stream", "grpc.health.v1.Health", "Watch"),
    (Method::Reflection, "bidi_stream", "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"),
    (
        Method::ReflectionAlpha,
        "bidi_stream",
        "grpc.reflection.v1alpha.ServerReflection",
        "ServerReflectionInfo",
    ),
    (Method::Unknown, "unary", "unknown", "unknown"),
];

impl Method {
    /// The method that a request's path names.
    #[must_use]
    pub fn from_path(path: &str) -> Self {
        let named = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let known = METHODS.iter().find(|(_, _, service, name)| named == Some((service, name)));
        known.map_or(Self::Unknown, |(method, ..)| *method)
    }

    /// The method's name without its service.
    #[must_use]
    pub fn name(self) -> &'static str {
        METHODS[self as usize].3
    }
}

/// The codes of gRPC in their order, as go-grpc-prometheus spells them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CODE_CANCELED: usize = 1;
const CODE_UNKNOWN: usize = 2;
const CODE_INTERNAL: usize = 13;

/// Every series, resolved once, so that a call costs no look-up.
#[derive(Debug)]
pub(super) struct Calls {
    methods: [Series; METHODS.len()],
}

#[derive(Debug)]
struct Series {
    started: IntCounter,
    handled: [IntCounter; CODES.len()],
    seconds: Histogram,
}

impl Calls {
    pub(super) fn new(registry: &Registry) -> Self {
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let with_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let started = super::counters(registry, "grpc_server_started_total", "Calls that began.", &labels);
        let handled = super::counters(registry, "grpc_server_handled_total", "Calls that ended.", &with_code);
        let seconds = super::register(
            registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "grpc_server_handling_seconds",
                    "How long calls took, streams to their end.",
                )
                .buckets(super::BUCKETS.to_vec()),
                &labels,
            ),
        );
        let methods = METHODS.map(|(_, kind, service, name)| Series {
            started: started.with_label_values(&[kind, service, name]),
            handled: CODES.map(|code| handled.with_label_values(&[kind, service, name, code])),
            seconds: seconds.with_label_values(&[kind, service, name]),
        });
        Self { methods }
    }

    fn series(&self, method: Method) -> &Series {
        &self.methods[method as usize]
    }
}

/// A call that is being counted.
#[derive(Debug)]
pub struct Call {
    metrics: Metrics,
    method: Method,
    began: Instant,
    code: usize,
}

impl Call {
    pub(super) fn begin(metrics: Metrics, method: Method) -> Self {
        metrics.0.calls.series(method).started.inc();
        Self { metrics, method, began: Instant::now(), code: CODE_CANCELED }
    }

    /// Says with which gRPC code it ended; without this it counts as canceled by its caller, or as ended by the panic
    /// that it is dropped in.
    pub fn finish(mut self, code: i32) {
        self.code = usize::try_from(code).ok().filter(|code| *code < CODES.len()).unwrap_or(CODE_UNKNOWN);
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.code == CODE_CANCELED && std::thread::panicking() {
            self.code = CODE_INTERNAL;
        }
        let series = self.metrics.0.calls.series(self.method);
        series.handled[self.code].inc();
        series.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_stand_in_their_own_order() {
        for (at, (method, _, service, name)) in METHODS.iter().enumerate() {
            assert_eq!(*method as usize, at);
            assert_eq!(Method::from_path(&format!("/{service}/{name}")), *method);
        }
        for path in [
            "",
            "/",
            "/federation.v1.FederationTasks/Nope",
            "/a/b",
            "federation.v1.FederationTasks/QueryTask",
        ] {
            assert_eq!(Method::from_path(path), Method::Unknown);
        }
    }

    #[test]
    fn a_call_that_is_dropped_was_canceled() {
        let metrics = Metrics::new();
        drop(metrics.call(Method::WatchTask));
        metrics.call(Method::QueryTask).finish(3);
        metrics.call(Method::QueryTask).finish(77);
        let text = metrics.render();
        let line = |kind: &str, method: &str, code: &str| {
            format!(
                "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"{method}\",\
                 grpc_service=\"federation.v1.FederationTasks\",grpc_type=\"{kind}\"}} 1\n"
            )
        };
        assert!(text.contains(&line("server_stream", "WatchTask", "Canceled")), "{text}");
        assert!(text.contains(&line("unary", "QueryTask", "InvalidArgument")));
        assert!(text.contains(&line("unary", "QueryTask", "Unknown")));
    }
}
