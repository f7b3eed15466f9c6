//! What an operator sees of the certificate and the registration.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Shared with the registrar that counts: a clone registers the same numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) certificate_expires: Gauge,
    pub(crate) repairs: Counter,
}

impl Metrics {
    /// Under the registry's own prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the API server will begin to refuse the webhook's certificate, in seconds since 1970",
            self.certificate_expires.clone(),
        );
        registry.register(
            "registration_repairs",
            "Repairs of a registration that somebody has changed or deleted",
            self.repairs.clone(),
        );
    }
}
