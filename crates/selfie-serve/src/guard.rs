//! Access control: clients must name this server, and pages must come from it.
//!
//! A page from elsewhere can make a browser send requests here. Two checks keep it from driving the server. `Host` must
//! name this machine, which refuses names rebound to 127.0.0.1 (DNS rebinding). `Origin`, which browsers send with
//! every POST, must be the server itself.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// The names that requests may use for this server.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    names: Arc<Vec<String>>,
    /// Whether any IP address is allowed. `Host` never has one if a name was rebound.
    any_address: bool,
}

impl Hosts {
    /// localhost, the address the server listens on, and other names. If that address is not loopback, requests may use
    /// any IP address.
    pub(crate) fn new(address: IpAddr, names: &[String]) -> Self {
        let names = names.iter().map(|name| name.to_ascii_lowercase());
        Self {
            names: Arc::new(names.chain(["localhost".to_owned()]).collect()),
            any_address: !address.is_loopback(),
        }
    }

    fn has(&self, authority: &Authority) -> bool {
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) => self.any_address || address.is_loopback(),
            Err(_) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                self.names.contains(&host)
            }
        }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let authority = host.and_then(|host| host.parse::<Authority>().ok());
        let (Some(authority), None) = (authority, hosts.next()) else {
            return Err(Problem::bad("the request needs exactly one Host header"));
        };
        if authority.as_str().contains('@') || !self.has(&authority) {
            return Err(forbidden(format!(
                "the Host {authority} is not this server's: use localhost, or start the server with --allow-host"
            )));
        }
        for origin in headers.get_all(header::ORIGIN) {
            let own = ["http://", "https://"].map(|scheme| format!("{scheme}{authority}"));
            if !own
                .iter()
                .any(|own| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
            {
                return Err(forbidden("pages from other sites may not use this server"));
            }
        }
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        match site {
            // Other sites may link to the page.
            _ if path == "/" => Ok(()),
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) => Err(forbidden("pages from other sites may not use this server")),
        }
    }
}

fn forbidden(message: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, message)
}

/// Lets a request through, or refuses it.
pub(crate) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    match hosts.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, headers: &[(&str, &str)]) -> u16 {
        let hosts = Hosts::new(address.parse().unwrap(), &["Box.example".to_owned()]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        hosts
            .check("/interpret", &map)
            .map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_this_machine_is_named() {
        for (host, loopback, everywhere) in [
            ("localhost:7979", 200, 200),
            ("LOCALHOST", 200, 200),
            ("localhost.:7979", 200, 200),
            ("127.0.0.1:8080", 200, 200),
            ("[::1]:7979", 200, 200),
            ("box.example:7979", 200, 200),
            ("192.168.1.5:7979", 403, 200),
            ("[2001:db8::1]", 403, 200),
            ("evil.example:7979", 403, 403),
            ("localhost.evil.example", 403, 403),
            ("127.0.0.1.evil.example", 403, 403),
            ("user@localhost", 403, 403),
            ("", 400, 400),
            ("a b", 400, 400),
        ] {
            assert_eq!(check("127.0.0.1", &[("host", host)]), loopback, "{host}");
            assert_eq!(check("0.0.0.0", &[("host", host)]), everywhere, "{host}");
        }
        assert_eq!(check("127.0.0.1", &[]), 400);
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check("127.0.0.1", &two), 400);
    }

    #[test]
    fn pages_from_other_sites_are_refused() {
        for (name, value, want) in [
            ("origin", "http://localhost:7979", 200),
            ("origin", "https://localhost:7979", 200),
            ("origin", "http://localhost:3000", 403),
            ("origin", "http://127.0.0.1:7979", 403),
            ("origin", "http://evil.example", 403),
            ("origin", "null", 403),
            ("sec-fetch-site", "same-origin", 200),
            ("sec-fetch-site", "none", 200),
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
        ] {
            let headers = [("host", "localhost:7979"), (name, value)];
            assert_eq!(check("127.0.0.1", &headers), want, "{name}: {value}");
        }
    }
}
