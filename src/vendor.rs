//! The vendor's two REST calls: loose JSON in, strict types out; what an answer or a broken exchange means; how
//! often one call is tried. Knows neither gRPC nor who asks.

pub mod client;
pub mod error;
pub mod heard;
pub mod http;
pub mod login;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use reqwest::Url;

pub use self::client::Client;
use self::http::{ClientError, Http};
pub use self::login::SharedSecret;
use self::login::TokenByAkSk;
use crate::limits::Permits;
use crate::metrics::Metrics;
use crate::token::{Login, Tokens};

/// Where the vendor is, and as whom it is asked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How it is reached.
    pub http: http::Config,
    /// Where tokenByAkSk is.
    pub token_url: Url,
    /// Where queryTask is.
    pub query_url: Url,
    /// The key that the vendor's operations staff gave.
    pub app_key: String,
    /// The secret to it.
    pub app_secret: SharedSecret,
    /// `X-TenantSpaceID`, which multi-tenant regions need.
    pub tenant_space_id: Option<String>,
    /// The token's lifetime that is asked for, in whole seconds on the wire.
    pub token_lifetime: Duration,
    /// Tries in all of one upstream call.
    pub max_attempts: u32,
}

/// Why the vendor can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// There is no HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The app key or the tenant's id can't stand in a header.
    #[error("{0} is not of visible ASCII")]
    Header(&'static str),
}

/// A vendor that can be asked once a token is there to ask with.
#[derive(Debug)]
pub struct Vendor {
    config: Config,
    http: Http,
    metrics: Metrics,
}

impl Vendor {
    /// Prepares to ask; connects nothing yet.
    ///
    /// # Errors
    /// If the configuration can't be used.
    pub fn new(config: Config, metrics: Metrics) -> Result<Self, SetUpError> {
        let http = Http::new(config.http.clone())?;
        Ok(Self { config, http, metrics })
    }

    /// The login that [`Tokens`] are kept alive with.
    #[must_use]
    pub fn login(&self) -> Box<dyn Login> {
        Box::new(TokenByAkSk {
            http: self.http.clone(),
            url: self.config.token_url.clone(),
            app_key: self.config.app_key.clone(),
            app_secret: Arc::clone(&self.config.app_secret),
            lifetime: self.config.token_lifetime,
            metrics: self.metrics.clone(),
        })
    }

    /// The client that asks for tasks.
    ///
    /// # Errors
    /// If the app key or the tenant's id can't stand in a header.
    pub fn client(self, tokens: Arc<Tokens>, permits: Arc<dyn Permits>) -> Result<Client, SetUpError> {
        let header = |name, text: &str| HeaderValue::from_str(text).map_err(|_| SetUpError::Header(name));
        let parts = client::Parts {
            url: self.config.query_url,
            app_key: header("app-key", &self.config.app_key)?,
            tenant_space_id: self
                .config
                .tenant_space_id
                .as_deref()
                .map(|id| header("tenant-space-id", id))
                .transpose()?,
            max_attempts: self.config.max_attempts,
            tokens,
            permits,
            metrics: self.metrics,
        };
        Ok(Client::new(self.http, parts))
    }
}
