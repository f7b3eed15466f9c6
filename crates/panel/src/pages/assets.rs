//! The style sheet and the icon, compiled in; a browser asks each time whether it still has the right one.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

const CSS: Asset = Asset::new("text/css; charset=utf-8", include_bytes!("../../assets/panel.css"));
const ICON: Asset = Asset::new("image/svg+xml", include_bytes!("../../assets/panel.svg"));

/// `GET /assets/panel.css`
pub(crate) async fn css(headers: HeaderMap) -> Response {
    CSS.answer(&headers)
}

/// `GET /assets/panel.svg`
pub(crate) async fn icon(headers: HeaderMap) -> Response {
    ICON.answer(&headers)
}

struct Asset {
    media_type: &'static str,
    bytes: &'static [u8],
    version: u64,
}

impl Asset {
    const fn new(media_type: &'static str, bytes: &'static [u8]) -> Self {
        Self { media_type, bytes, version: fnv1a(bytes) }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let etag = format!("\"{:016x}\"", self.version);
        let known = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|tag| tag.trim().trim_start_matches("W/") == etag);
        // no-cache: kept, and asked about. A page never meets the style of another version.
        let caching = [(ETAG, etag), (CACHE_CONTROL, "no-cache".to_owned())];
        if known {
            (StatusCode::NOT_MODIFIED, caching).into_response()
        } else {
            (caching, [(CONTENT_TYPE, self.media_type)], self.bytes).into_response()
        }
    }
}

/// FNV-1a tells versions of a file apart; it guards nothing.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    hash
}
