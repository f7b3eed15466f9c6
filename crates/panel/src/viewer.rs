//! Who is asking, and so what they may see: the one place that changes when the panel gets accounts.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use domain::query::Scope;

/// Whoever reaches the loopback listener is the local administrator.
pub(crate) struct Viewer {
    pub(crate) scope: Scope,
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { scope: Scope::Everything })
    }
}
