//! The switch's own page, at `/`: for those without Grafana, or without a network.
//!
//! It is made of the files in `page/`, which are in the binary as they are. They fetch `/status` and show it. Everything they show is
//! text to the browser, and the policy sent with them lets nothing run or load but these files.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

/// Nothing from elsewhere, nothing inline, no frame around it, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file, and where it is.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

macro_rules! assets {
    ($($path:literal: $content_type:expr, $file:literal;)*) => {
        const ASSETS: &[Asset] =
            &[$(Asset { path: $path, content_type: $content_type, body: include_str!(concat!("page/", $file)) },)*];
    };
}

assets! {
    "/": "text/html; charset=utf-8", "index.html";
    "/page/style.css": "text/css; charset=utf-8", "style.css";
    "/page/icon.svg": "image/svg+xml", "icon.svg";
    "/page/decisions.js": SCRIPT, "decisions.js";
    "/page/dom.js": SCRIPT, "dom.js";
    "/page/format.js": SCRIPT, "format.js";
    "/page/history.js": SCRIPT, "history.js";
    "/page/main.js": SCRIPT, "main.js";
    "/page/overview.js": SCRIPT, "overview.js";
    "/page/parts.js": SCRIPT, "parts.js";
    "/page/port.js": SCRIPT, "port.js";
    "/page/problems.js": SCRIPT, "problems.js";
    "/page/rates.js": SCRIPT, "rates.js";
    "/page/reasons.js": SCRIPT, "reasons.js";
}

/// The page's files, each at its path.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS
        .iter()
        .fold(Router::new(), |router, asset| router.route(asset.path, get(move || async move { answer(asset) })))
}

fn answer(asset: &'static Asset) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 6] = [
        (CONTENT_TYPE, asset.content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the switch may answer next time.
        (CACHE_CONTROL, "no-cache"),
        // A browser fetches the files over several connections at once. Few are served: they are not to be held.
        (CONNECTION, "close"),
    ];
    (headers, asset.body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use vm_ports::{RingFault, RxDrop, TxDrop};

    use crate::forwarding::DropReason;

    fn body(path: &str) -> &'static str {
        ASSETS.iter().find(|asset| asset.path == path).unwrap().body
    }

    /// The words between `before` and the next quote.
    fn quoted<'t>(text: &'t str, before: &'t str) -> impl Iterator<Item = &'t str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn every_file_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> =
            files.map(|name| if name == "index.html" { "/".to_owned() } else { format!("/page/{name}") }).collect();
        assert_eq!(files, ASSETS.iter().map(|asset| asset.path.to_owned()).collect());
    }

    #[test]
    fn what_is_referred_to_is_here() {
        let known: BTreeSet<&str> = ASSETS.iter().map(|asset| asset.path).collect();
        for reference in quoted(body("/"), "href=\"/page/").chain(quoted(body("/"), "src=\"/page/")) {
            assert!(known.contains(format!("/page/{reference}").as_str()), "{reference}");
        }
        for asset in ASSETS {
            for module in quoted(asset.body, " from \"./") {
                assert!(known.contains(format!("/page/{module}").as_str()), "{}: {module}", asset.path);
            }
            // The name of SVG is no place to load from.
            let elsewhere = asset.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{}", asset.path);
            for unsafe_way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="] {
                assert!(!asset.body.contains(unsafe_way), "{}: {unsafe_way}", asset.path);
            }
        }
    }

    #[test]
    fn every_reason_is_explained() {
        let text = body("/page/reasons.js");
        let reasons = DropReason::ALL.iter().map(|reason| reason.as_str());
        let at_rings = TxDrop::ALL.iter().map(|reason| reason.as_str()).chain(RxDrop::ALL.iter().map(|r| r.as_str()));
        for reason in reasons.chain(at_rings).chain(RingFault::ALL.iter().map(|fault| fault.as_str())) {
            assert!(text.contains(&format!("\n  {reason}: \"")), "{reason}");
        }
    }
}
