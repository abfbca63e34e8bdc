//! Who the client is and how it is connected, where proxies may stand in between.
//!
//! 1. The peer is who holds the connection: [`ClientAddress`] in the request's extensions, and
//!    axum's `ConnectInfo` otherwise.
//! 2. Of a peer that is no [trusted proxy](TrustedProxies) no header is believed.
//! 3. A trusted proxy is believed about who came to it, and so on from right to left: the client is
//!    the first that is no trusted proxy, or the left-most. Whatever stands further to the left is
//!    the client's own invention.
//! 4. A proxy that does not say who came to it leaves the client unknown.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::FORWARDED;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Request};
use ipnet::IpNet;

/// The address that a request came from, in its extensions. Put it there where axum's `ConnectInfo`
/// is not to be had, or says something else; this one comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Whether the connection that a request came over is encrypted, in its extensions. Put it there
/// where TLS ends in this process: HTTP/1.1 does not tell it.
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

    /// The client that is behind `peer`.
    fn client(&self, headers: &HeaderMap, peer: IpAddr) -> Option<IpAddr> {
        let mut client = peer;
        for hop in self.hops(headers) {
            if !self.trusts(client) {
                break;
            }
            client = hop.address?;
        }
        Some(client)
    }

    /// Whether the client's connection is encrypted, if the proxies tell.
    fn is_secure(&self, headers: &HeaderMap, peer: IpAddr) -> Option<bool> {
        match self.dialect {
            Dialect::XForwarded => {
                // The nearest proxy's word: it has set the header, or added to it.
                let last = items(headers, &X_FORWARDED_PROTO).next()?;
                Some(last.eq_ignore_ascii_case("https"))
            }
            Dialect::Forwarded => {
                // The word of the proxy that the client came to.
                let mut address = Some(peer);
                let mut secure = None;
                for hop in self.hops(headers) {
                    if !address.is_some_and(|address| self.trusts(address)) {
                        break;
                    }
                    (address, secure) = (hop.address, hop.secure);
                }
                secure
            }
        }
    }

    /// What the proxies tell, the nearest of them first.
    fn hops<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = Hop> + use<'h> {
        let (name, read): (_, fn(&str) -> Hop) = match self.dialect {
            Dialect::Forwarded => (&FORWARDED, Hop::of_element),
            Dialect::XForwarded => (&X_FORWARDED_FOR, Hop::of_address),
        };
        items(headers, name).map(read)
    }
}

/// What a proxy tells of whoever came to it.
struct Hop {
    /// Not known where it is hidden, or makes no sense.
    address: Option<IpAddr>,
    secure: Option<bool>,
}

impl Hop {
    fn of_address(text: &str) -> Self {
        Self {
            address: address(text),
            secure: None,
        }
    }

    /// As in `for=192.0.2.60;proto=https` (RFC 7239 §4).
    fn of_element(text: &str) -> Self {
        let parameter = |wanted: &str| {
            let mut pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim().trim_matches('"'))
        };
        Self {
            address: parameter("for").and_then(address),
            secure: parameter("proto").map(|scheme| scheme.eq_ignore_ascii_case("https")),
        }
    }
}

/// The items of a list, over all its lines, the last one first. No address or scheme has a comma
/// in it, quoted or not.
fn items<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> + use<'h> {
    headers.get_all(name).iter().rev().flat_map(|line| {
        // Item by item: what is no text may be the client's, and what follows it a proxy's.
        let items = line.as_bytes().rsplit(|byte| *byte == b',');
        items.map(|item| std::str::from_utf8(item).map_or("?", str::trim))
    })
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    address.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// The address of the client behind a request, if it is known.
pub(super) fn client_address<B>(
    request: &Request<B>,
    proxies: Option<&TrustedProxies>,
) -> Option<IpAddr> {
    let peer = peer_address(request)?;
    match proxies {
        Some(proxies) => proxies.client(request.headers(), peer),
        None => Some(peer),
    }
}

/// Whether nobody between the client and its TLS could read the request.
pub(super) fn is_secure<B>(request: &Request<B>, proxies: Option<&TrustedProxies>) -> bool {
    let trusted = proxies
        .zip(peer_address(request))
        .filter(|(proxies, peer)| proxies.trusts(*peer));
    let told = trusted.and_then(|(proxies, peer)| proxies.is_secure(request.headers(), peer));
    let known = told.or_else(|| {
        let transport = request.extensions().get::<SecureTransport>();
        transport.map(|SecureTransport(secure)| *secure)
    });
    known.unwrap_or_else(|| request.uri().scheme() == Some(&Scheme::HTTPS))
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
