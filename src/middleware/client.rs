//! The client's address and the safety of its connection, where proxies may stand in between.
//!
//! 1. The peer holds the connection: [`ClientAddress`] in the request's extensions, and axum's
//!    `ConnectInfo` otherwise.
//! 2. Of a peer that is no [trusted proxy](TrustedProxies) no header is believed.
//! 3. A trusted proxy is believed about the client that came to it, and so on from right to left:
//!    the client is the first that is no trusted proxy, or the left-most. Text further to the left
//!    is the client's own invention.
//! 4. A proxy that does not name its client leaves the client unknown. So do an address that is
//!    hidden, and an element that does not parse. The failed attempts of such clients count for
//!    their proxy.
//! 5. No part of the request itself proves TLS: the target may be `https://…`, and HTTP/2's
//!    `:scheme` may say `https`, on a connection in clear text.

#[cfg(feature = "axum")]
use std::net::SocketAddr;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, Request};
use ipnet::IpNet;

use super::forwarded::{Element, Malformed, elements, node_address, trim};
use crate::verify::Origin;

/// The address that a request came from, in its extensions. Put it there where axum's `ConnectInfo`
/// is not to be had, or says something else; this one comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Encryption of the connection that a request came over, in its extensions.
///
/// Put it there where TLS ends in this process, since no request says it reliably. Where a router
/// serves TLS alone, `.layer(axum::Extension(SecureTransport(true)))` around it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecureTransport(pub bool);

/// The proxies that are believed when they tell who the client is and how it is connected.
///
/// ```
/// use tower_api_key::TrustedProxies;
///
/// let proxies = TrustedProxies::new(["10.0.0.0/8".parse()?, "fd00::/8".parse()?]);
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TrustedProxies {
    networks: Arc<[IpNet]>,
    dialect: Dialect,
}

/// The headers that the proxies write. Those of the other dialect may come from the client.
#[derive(Clone, Copy, Debug)]
enum Dialect {
    Forwarded,
    XForwarded,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

impl TrustedProxies {
    /// Believes `X-Forwarded-For` and `X-Forwarded-Proto` of peers in these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            networks: networks.into_iter().collect(),
            dialect: Dialect::XForwarded,
        }
    }

    /// Believes `Forwarded` (RFC 7239) instead.
    pub fn forwarded(mut self) -> Self {
        self.dialect = Dialect::Forwarded;
        self
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }

    /// The claim about the client that is behind a trusted peer. `None`, where the peer says
    /// nothing.
    fn claim(&self, headers: &HeaderMap) -> Option<Claim> {
        let unreadable = Some(Claim::UNREADABLE);
        let mut claim = None;
        match self.dialect {
            Dialect::XForwarded => {
                for line in headers.get_all(X_FORWARDED_FOR) {
                    for item in line.as_bytes().split(|byte| *byte == b',') {
                        claim = Some(self.extend(claim, Claim::of_address(item)));
                    }
                }
            }
            Dialect::Forwarded => {
                for line in headers.get_all(FORWARDED) {
                    for element in elements(line.as_bytes()) {
                        let next = match element {
                            Ok(element) => Claim::of_element(&element),
                            Err(Malformed::Element) => Claim::UNREADABLE,
                            Err(Malformed::Quote) => return unreadable,
                        };
                        claim = Some(self.extend(claim, next));
                    }
                }
            }
        }
        claim
    }

    /// The claim that holds after `next` was read, which stands to the right of `claim`. A trusted
    /// proxy is believed about its client; of anybody else only what others say counts.
    fn extend(&self, claim: Option<Claim>, next: Claim) -> Claim {
        match (claim, next.address) {
            (Some(claim), Some(proxy)) if self.trusts(proxy) => Claim {
                reporter: claim.reporter.or(next.address),
                ..claim
            },
            _ => next,
        }
    }

    /// Returns whether the client's connection is encrypted, if the proxies say it.
    fn is_secure(&self, headers: &HeaderMap) -> Option<bool> {
        match self.dialect {
            Dialect::XForwarded => {
                // The nearest proxy's word: it has set the header, or added to it.
                let line = headers.get_all(X_FORWARDED_PROTO).iter().next_back()?;
                let last = line.as_bytes().rsplit(|byte| *byte == b',').next()?;
                Some(trim(last).eq_ignore_ascii_case(b"https"))
            }
            Dialect::Forwarded => self.claim(headers)?.is_secure,
        }
    }
}

/// Statement of a proxy about a client that came to it.
#[derive(Clone, Copy)]
struct Claim {
    /// `None` where it is hidden, or makes no sense.
    address: Option<IpAddr>,
    /// `None` where the proxy does not say it.
    is_secure: Option<bool>,
    /// The trusted proxy that makes the claim. `None` for the peer.
    reporter: Option<IpAddr>,
}

impl Claim {
    /// No client may profit from a claim that it has made unreadable, so it counts as clear text
    /// too.
    const UNREADABLE: Self = Self {
        address: None,
        is_secure: Some(false),
        reporter: None,
    };

    /// An item of `X-Forwarded-For`: an address alone, in brackets, or with a port. An item that is
    /// empty is that of a proxy which does not name its client.
    fn of_address(item: &[u8]) -> Self {
        let text = std::str::from_utf8(trim(item)).unwrap_or_default();
        let bare = text.parse::<Ipv6Addr>().map(IpAddr::from);
        Self {
            address: bare.ok().or_else(|| node_address(text)),
            is_secure: None,
            reporter: None,
        }
    }

    fn of_element(element: &Element<'_>) -> Self {
        Self {
            address: element.address(),
            is_secure: element.is_secure(),
            reporter: None,
        }
    }
}

/// The origin of a request, as far as it is known.
pub(super) fn origin<B>(request: &Request<B>, proxies: Option<&TrustedProxies>) -> Origin {
    let peer = peer_address(request);
    let Some((proxies, peer)) = trusted(proxies, peer) else {
        return peer.into();
    };
    let claim = proxies.claim(request.headers());
    let address = claim.and_then(|claim| claim.address);
    let reporter = claim.and_then(|claim| claim.reporter).unwrap_or(peer);
    Origin {
        address,
        accountable: Some(address.unwrap_or(reporter)),
    }
}

/// Returns whether the client's connection is encrypted, as far as it is known.
pub(super) fn is_secure<B>(request: &Request<B>, proxies: Option<&TrustedProxies>) -> bool {
    let claimed = trusted(proxies, peer_address(request))
        .and_then(|(proxies, _)| proxies.is_secure(request.headers()));
    claimed.unwrap_or_else(|| {
        let transport = request.extensions().get::<SecureTransport>();
        transport.is_some_and(|SecureTransport(secure)| *secure)
    })
}

/// The proxies and the peer, if it is one of them.
fn trusted(
    proxies: Option<&TrustedProxies>,
    peer: Option<IpAddr>,
) -> Option<(&TrustedProxies, IpAddr)> {
    proxies
        .zip(peer)
        .filter(|(proxies, peer)| proxies.trusts(*peer))
}

fn peer_address<B>(request: &Request<B>) -> Option<IpAddr> {
    let extensions = request.extensions();
    if let Some(ClientAddress(address)) = extensions.get() {
        return Some(*address);
    }
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(peer)) =
        extensions.get::<axum::extract::ConnectInfo<SocketAddr>>()
    {
        return Some(peer.ip());
    }
    None
}
