use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Uri};
use zeroize::Zeroizing;

use super::forwarded::{is_token_byte, trim};

/// Where in a request the key may be.
///
/// The default is `Authorization: Bearer KEY` (RFC 6750 §2.1) and `X-API-Key: KEY`.
///
/// ```
/// use http::HeaderName;
/// use tower_api_key::CredentialSources;
///
/// let sources = CredentialSources::none()
///     .scheme("ApiKey")
///     .header(HeaderName::from_static("x-acme-key"));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CredentialSources {
    pub(super) schemes: Vec<String>,
    pub(super) headers: Vec<KeyHeader>,
    pub(super) query: Vec<String>,
}

/// A header whose value is the key.
#[derive(Clone, Debug)]
pub(super) struct KeyHeader {
    name: HeaderName,
    /// How `Vary` names it.
    pub(super) written: HeaderValue,
}

impl Default for CredentialSources {
    fn default() -> Self {
        Self::none()
            .scheme("Bearer")
            .header(HeaderName::from_static("x-api-key"))
    }
}

impl CredentialSources {
    /// No source: add those that shall be looked at.
    pub const fn none() -> Self {
        Self {
            schemes: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    /// The `Authorization` header with this scheme, in upper or lower case.
    ///
    /// # Panics
    ///
    /// When `scheme` is not a token (RFC 9110 §5.6.2).
    pub fn scheme(mut self, scheme: &str) -> Self {
        assert!(
            HeaderName::from_bytes(scheme.as_bytes()).is_ok(),
            "invalid authentication scheme {scheme:?}: it must be a token"
        );
        self.schemes.push(scheme.to_owned());
        self
    }

    /// A header whose whole value is the key.
    ///
    /// # Panics
    ///
    /// When `name` is `Authorization`, which takes a [`scheme`](Self::scheme).
    pub fn header(mut self, name: HeaderName) -> Self {
        assert!(
            name != AUTHORIZATION,
            "keys in `Authorization` need a scheme"
        );
        // One that is named twice is still one source, and not two keys.
        if self.headers.iter().all(|known| known.name != name) {
            let written = match name.as_str() {
                "x-api-key" => HeaderValue::from_static("X-API-Key"),
                _ => name.clone().into(),
            };
            self.headers.push(KeyHeader { name, written });
        }
        self
    }

    /// A query parameter, as in `?api_key=KEY`.
    ///
    /// **A leak**: URLs are written into access logs, browser histories and `Referer` headers, by
    /// everything between the client and this layer. It is off by default, and RFC 6750 §2.3
    /// discourages it. Use it only for clients that can do nothing else.
    ///
    /// The name may come percent-encoded; a key that does is not valid.
    pub fn query_parameter(mut self, name: &str) -> Self {
        self.query.push(name.to_owned());
        self
    }

    /// Looks into every source.
    pub(super) fn find<'r, B>(&self, request: &'r Request<B>) -> Found<'r> {
        let mut found = Found::Nothing;
        let mut authorization = false;
        // One walk costs less than a lookup for each source, and meets every line.
        for (name, line) in request.headers() {
            if name == AUTHORIZATION && !self.schemes.is_empty() {
                if std::mem::replace(&mut authorization, true) {
                    return Found::Several;
                }
                if let Some(credential) = self.after_scheme(line.as_bytes()) {
                    found.add(Source::Authorization, credential);
                }
            } else if let Some(index) = self.headers.iter().position(|ours| ours.name == name) {
                found.add(Source::Header(index), line.as_bytes());
            }
        }
        if let (false, Some(query)) = (self.query.is_empty(), request.uri().query()) {
            for (name, value) in parameters(query) {
                if self.is_parameter(name) {
                    found.add(Source::Query, value.as_bytes());
                }
            }
        }
        found
    }

    /// Copies of all credentials in all sources, for a request that others may have read. Of a list
    /// in one line, as an intermediary makes of several lines (RFC 9110 §5.3), each member is one.
    ///
    /// At most 16: a client has few keys, and each of them may cost a lookup.
    pub(super) fn find_all<B>(&self, request: &Request<B>) -> Vec<Zeroizing<Vec<u8>>> {
        const MOST: usize = 16;
        let in_headers = request.headers().iter().flat_map(|(name, line)| {
            let of_scheme = name == AUTHORIZATION && self.after_scheme(line.as_bytes()).is_some();
            let is_source = of_scheme || self.headers.iter().any(|ours| ours.name == name);
            let members = line.as_bytes().split(|&byte| byte == b',');
            members.filter(move |_| is_source).map(move |member| {
                let member = trim(member);
                let after_scheme = self.after_scheme(member).filter(|_| of_scheme);
                after_scheme.unwrap_or(member)
            })
        });
        let query = request.uri().query().filter(|_| !self.query.is_empty());
        let in_query = query.into_iter().flat_map(parameters);
        let in_query = in_query.filter(|(name, _)| self.is_parameter(name));
        in_headers
            .chain(in_query.map(|(_, value)| value.as_bytes()))
            .take(MOST)
            .map(|credential| Zeroizing::new(credential.to_vec()))
            .collect()
    }

    /// Takes the credential out of the request, so that no handler, log or upstream sees it.
    pub(super) fn remove<B>(&self, source: Source, request: &mut Request<B>) {
        match source {
            Source::Authorization => drop(request.headers_mut().remove(AUTHORIZATION)),
            Source::Header(index) => drop(request.headers_mut().remove(&self.headers[index].name)),
            Source::Query => self.remove_parameters(request),
        }
    }

    /// Takes out whatever any source holds, where the credential is not looked at or is not one.
    pub(super) fn remove_all<B>(&self, request: &mut Request<B>) {
        let headers = request.headers_mut();
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        if lines.any(|line| self.after_scheme(line.as_bytes()).is_some()) {
            headers.remove(AUTHORIZATION);
        }
        for header in &self.headers {
            headers.remove(&header.name);
        }
        if !self.query.is_empty() {
            self.remove_parameters(request);
        }
    }

    fn remove_parameters<B>(&self, request: &mut Request<B>) {
        if let Some(uri) = self.without_parameters(request.uri()) {
            *request.uri_mut() = uri;
        }
        #[cfg(feature = "axum")]
        if let Some(original) = request
            .extensions_mut()
            .get_mut::<axum::extract::OriginalUri>()
            && let Some(uri) = self.without_parameters(&original.0)
        {
            original.0 = uri;
        }
    }

    /// What caches must be told of the answer to a credential from `source`.
    #[inline]
    pub(super) fn caches(&self, source: Source) -> Caches {
        match source {
            Source::Authorization => Caches::Know,
            Source::Header(index) => Caches::Vary(self.headers[index].written.clone()),
            Source::Query => Caches::Private,
        }
    }

    /// The headers that a key may come in, as `Vary` names them. `None`, where it comes in no
    /// header.
    pub(super) fn key_headers(&self) -> Option<HeaderValue> {
        let authorization = (!self.schemes.is_empty()).then_some(&b"Authorization"[..]);
        let others = self.headers.iter().map(|header| header.written.as_bytes());
        let names: Vec<_> = authorization.into_iter().chain(others).collect();
        if names.is_empty() {
            return None;
        }
        HeaderValue::from_bytes(&names.join(&b", "[..])).ok()
    }

    /// Leaves the credential in the request, but keeps it out of `Debug` and HTTP/2's tables.
    pub(super) fn mark_sensitive<B>(&self, source: Source, request: &mut Request<B>) {
        let name = match source {
            Source::Authorization => &AUTHORIZATION,
            Source::Header(index) => &self.headers[index].name,
            Source::Query => return,
        };
        if let Some(value) = request.headers_mut().get_mut(name) {
            value.set_sensitive(true);
        }
    }

    /// What follows one of the schemes and its spaces (RFC 9110 §11.4). Nothing, when the scheme
    /// is another one: then it is no credential of ours. A scheme is a token, so a tab or a comma
    /// ends ours as well; what follows is then a bad credential rather than none.
    fn after_scheme<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let mut rest = self.schemes.iter().find_map(|ours| {
            let (scheme, rest) = line.split_at_checked(ours.len())?;
            let ends_here = match rest.first() {
                None | Some(b' ') => true,
                Some(&byte) => !is_token_byte(byte),
            };
            let ours = ours.as_bytes();
            // Most clients write it as we do, which is seen at once.
            (ends_here && (scheme == ours || scheme.eq_ignore_ascii_case(ours))).then_some(rest)
        })?;
        while let [b' ', after @ ..] = rest {
            rest = after;
        }
        Some(rest)
    }

    fn is_parameter(&self, name: &str) -> bool {
        self.query.iter().any(|ours| decoded(name).eq(ours.bytes()))
    }

    fn without_parameters(&self, uri: &Uri) -> Option<Uri> {
        let kept: Vec<_> = uri
            .query()?
            .split('&')
            .filter(|pair| !self.is_parameter(pair.split_once('=').map_or(*pair, |(name, _)| name)))
            .collect();
        let path = uri.path();
        let path_and_query = match kept.as_slice() {
            [] => path.to_owned(),
            kept => format!("{path}?{}", kept.join("&")),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path_and_query.parse().ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// What was found in all sources.
pub(super) enum Found<'r> {
    Nothing,
    One(Source, &'r [u8]),
    Several,
}

/// Where a credential was found.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Authorization,
    /// The header at that place among the sources.
    Header(usize),
    Query,
}

/// What caches must be told of an answer.
pub(super) enum Caches {
    /// Nothing: of `Authorization` they know (RFC 9111 §3.5).
    Know,
    /// That it is for this client only. By the URI they tell answers apart.
    Private,
    /// That also, and that it depends on this header.
    Vary(HeaderValue),
}

impl<'r> Found<'r> {
    fn add(&mut self, source: Source, credential: &'r [u8]) {
        *self = match self {
            Self::Nothing => Self::One(source, credential),
            Self::One(..) | Self::Several => Self::Several,
        };
    }
}

/// The bytes of a parameter's name, of which any may be percent-encoded (RFC 3986 §2.1): a key
/// must not stay in the URI because its parameter is written in another way.
fn decoded(name: &str) -> impl Iterator<Item = u8> {
    let mut rest = name.as_bytes();
    std::iter::from_fn(move || {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(*first)
    })
}

fn hex_value(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}
