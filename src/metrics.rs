//! What the process counts, and its Prometheus text. Owns every metric's name, labels and help; those who count
//! hold a cloneable handle and guards that count also when they are dropped. Knows nothing of what is counted:
//! outcomes come as static labels, so that none can be a caller's or the vendor's text.

mod calls;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry, TextEncoder,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use calls::{Call, Method};

/// What an exchange with the vendor is counted as when nobody was left to wait for it.
const CANCELED: &str = "canceled";
/// The outcome of what went well.
pub const OK: &str = "ok";

/// From what a gateway's own memory needs to what `request-timeout` allows by default, in seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Panics of the process: a hook that knows no gateway counts them.
static PANICS: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new("federation_panics_total", "Panics of the process: each is a defect, and logged.")
        .expect("the name and the help are constants")
});

/// Counts a panic of the process, in all its gateways' metrics.
pub fn count_panic() {
    PANICS.inc();
}

/// The vendor's two calls, as labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The state of a task.
    QueryTask,
    /// A login.
    TokenByAkSk,
}

impl Endpoint {
    fn label(self) -> &'static str {
        match self {
            Self::QueryTask => "queryTask",
            Self::TokenByAkSk => "tokenByAkSk",
        }
    }
}

/// Where the answer to a QueryTask came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An upstream call that this request began.
    Upstream,
    /// An upstream call that somebody else had begun.
    Shared,
    /// Memory.
    Cache,
}

impl Source {
    /// The source as a label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Shared => "shared",
            Self::Cache => "cache",
        }
    }
}

/// A handle to all metrics of the process; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    calls: calls::Calls,
    requests: IntCounterVec,
    /// One of `requests`, resolved once: most of them end so.
    good_queries: IntCounter,
    query_seconds: Histogram,
    login_seconds: Histogram,
    answers: [IntCounter; 3],
    refreshes: IntCounterVec,
    token_remaining: Gauge,
    token_ends: Mutex<Option<Instant>>,
    watchers: IntGauge,
    pollers: IntGauge,
    in_flight: IntGauge,
    runtime_tasks: IntGauge,
}

impl Metrics {
    /// The metrics of one gateway, all at zero.
    ///
    /// # Panics
    /// If two metrics had one name, which the unit tests would show.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let requests = counters(
            &registry,
            "federation_upstream_requests_total",
            "Requests to the vendor, by how they ended.",
            &["endpoint", "outcome"],
        );
        for endpoint in [Endpoint::QueryTask, Endpoint::TokenByAkSk] {
            requests.with_label_values(&[endpoint.label(), OK]);
        }
        let seconds = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "federation_upstream_request_seconds",
                    "How long requests to the vendor took, from connecting to the last byte.",
                )
                .buckets(BUCKETS.to_vec()),
                &["endpoint"],
            ),
        );
        let answers = counters(
            &registry,
            "federation_answers_total",
            "Good answers to QueryTask, by where they came from.",
            &["source"],
        );
        let refreshes = counters(
            &registry,
            "federation_token_refreshes_total",
            "Logins of this process, by how they ended.",
            &["outcome"],
        );
        refreshes.with_label_values(&[OK]);
        let build = register(
            &registry,
            GaugeVec::new(Opts::new("federation_build_info", "What runs here; always 1."), &["version"]),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        registry.register(Box::new(PANICS.clone())).expect("each metric is registered once");
        registry.register(Box::new(ProcessCollector::for_self())).expect("each metric is registered once");
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let inner = Inner {
            calls: calls::Calls::new(&registry),
            query_seconds: seconds.with_label_values(&[Endpoint::QueryTask.label()]),
            login_seconds: seconds.with_label_values(&[Endpoint::TokenByAkSk.label()]),
            answers: [Source::Upstream, Source::Shared, Source::Cache]
                .map(|source| answers.with_label_values(&[source.label()])),
            token_remaining: register(
                &registry,
                Gauge::new(
                    "federation_token_remaining_seconds",
                    "The held token's remaining life; 0 without one.",
                ),
            ),
            token_ends: Mutex::new(None),
            watchers: gauge("federation_watchers", "WatchTask streams that are fed by a poller."),
            pollers: gauge("federation_pollers", "Tasks that this process polls."),
            in_flight: gauge("federation_upstream_in_flight", "queryTask requests under way to the vendor."),
            runtime_tasks: gauge("federation_runtime_tasks", "Tasks of the runtime that have not ended."),
            good_queries: requests.with_label_values(&[Endpoint::QueryTask.label(), OK]),
            requests,
            refreshes,
            registry,
        };
        Self(Arc::new(inner))
    }

    /// Counts a call of a gRPC method from now until the guard is finished or dropped.
    #[must_use]
    pub fn call(&self, method: Method) -> Call {
        Call::begin(self.clone(), method)
    }

    /// Counts a request to the vendor from now until the guard is finished or dropped.
    #[must_use]
    pub fn exchange(&self, endpoint: Endpoint) -> Exchange {
        let in_flight = (endpoint == Endpoint::QueryTask).then(|| Occupied::new(&self.0.in_flight));
        Exchange {
            metrics: self.clone(),
            endpoint,
            began: Instant::now(),
            outcome: CANCELED,
            _in_flight: in_flight,
        }
    }

    /// Counts a good answer to QueryTask.
    pub fn answered(&self, source: Source) {
        self.0.answers[source as usize].inc();
    }

    /// Counts a login that ended.
    pub fn login_ended(&self, outcome: &'static str) {
        self.0.refreshes.with_label_values(&[outcome]).inc();
    }

    /// Says when the held token ends; `None` if there is none.
    pub fn set_token_end(&self, ends: Option<Instant>) {
        *self.0.token_ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    /// Counts a watcher for as long as the guard lives.
    #[must_use]
    pub fn watcher(&self) -> Occupied {
        Occupied::new(&self.0.watchers)
    }

    /// Counts a poller for as long as the guard lives.
    #[must_use]
    pub fn poller(&self) -> Occupied {
        Occupied::new(&self.0.pollers)
    }

    /// All metrics in Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let ends = *self.0.token_ends.lock().unwrap_or_else(PoisonError::into_inner);
        let left = ends.map_or(0.0, |ends| ends.saturating_duration_since(Instant::now()).as_secs_f64());
        self.0.token_remaining.set(left);
        // Rendered within a runtime, or else there is none to tell of.
        if let Ok(runtime) = Handle::try_current() {
            self.0.runtime_tasks.set(runtime.metrics().num_alive_tasks().try_into().unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        // Writing to memory fails only for a family without a metric, and gather() leaves those out.
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics can't be rendered");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A request to the vendor that is being counted.
#[derive(Debug)]
pub struct Exchange {
    metrics: Metrics,
    endpoint: Endpoint,
    began: Instant,
    outcome: &'static str,
    _in_flight: Option<Occupied>,
}

impl Exchange {
    /// Says how it ended; without this it counts as canceled.
    pub fn finish(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let inner = &self.metrics.0;
        match (self.endpoint, self.outcome) {
            (Endpoint::QueryTask, OK) => inner.good_queries.inc(),
            (endpoint, outcome) => inner.requests.with_label_values(&[endpoint.label(), outcome]).inc(),
        }
        let seconds = match self.endpoint {
            Endpoint::QueryTask => &inner.query_seconds,
            Endpoint::TokenByAkSk => &inner.login_seconds,
        };
        seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

/// One more in a gauge for as long as this lives.
#[derive(Debug)]
pub struct Occupied(IntGauge);

impl Occupied {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("metric names and labels are constants of this file");
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_promised_name_is_rendered() {
        let metrics = Metrics::new();
        metrics.set_token_end(Some(Instant::now() + Duration::from_secs(90)));
        metrics.exchange(Endpoint::QueryTask).finish("upstream_unavailable");
        let running = metrics.exchange(Endpoint::QueryTask);
        metrics.answered(Source::Shared);
        let watcher = metrics.watcher();
        let mut task = JoinSet::new();
        task.spawn(std::future::pending::<()>());
        let text = metrics.render();
        for line in [
            r#"federation_upstream_requests_total{endpoint="queryTask",outcome="upstream_unavailable"} 1"#,
            r#"federation_upstream_request_seconds_count{endpoint="queryTask"} 1"#,
            r#"federation_answers_total{source="shared"} 1"#,
            r#"federation_answers_total{source="cache"} 0"#,
            r#"federation_token_refreshes_total{outcome="ok"} 0"#,
            "federation_token_remaining_seconds 90",
            "federation_watchers 1",
            "federation_pollers 0",
            "federation_upstream_in_flight 1",
            "federation_runtime_tasks 1",
            "process_open_fds",
            "federation_panics_total ",
            concat!(r#"federation_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop((running, watcher));
        let text = metrics.render();
        assert!(text.contains(r#"requests_total{endpoint="queryTask",outcome="canceled"} 1"#));
        assert!(text.contains("federation_upstream_in_flight 0"));
    }
}
