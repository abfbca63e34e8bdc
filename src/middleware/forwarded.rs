//! Parser of the `Forwarded` header field (RFC 7239 §4), with quoted strings (RFC 9110 §5.6.4).
//!
//! A proxy copies what its client sent into quoted strings, as in
//! `for=192.0.2.60;host="$http_host"`. A comma, a semicolon or a `for=` within quotes is the
//! client's text. It never begins an element or a parameter, or any client could name the address
//! that it seems to come from.
//!
//! ```text
//! Forwarded = [ element ] *( OWS "," OWS [ element ] )      the empty ones are skipped (RFC 9110 §5.6.1)
//! element   = [ pair ] *( OWS ";" OWS [ pair ] )            a known parameter comes at most once
//! pair      = token "=" ( token / quoted-string )
//! ```
//!
//! The file uses nothing else of this crate: `fuzz/fuzz_targets/forwarded.rs` includes it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads the elements of one field line, from left to right.
pub(super) fn elements(line: &[u8]) -> Elements<'_> {
    Elements { rest: Some(line) }
}

/// Iterator over the elements of one field line.
pub(super) struct Elements<'a> {
    /// The part of the line that was not read yet.
    rest: Option<&'a [u8]>,
}

/// One proxy's description of the request that came to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// The `for` parameter: the node that sent the request.
    pub(super) node: Option<Value<'a>>,
    /// The `proto` parameter: the scheme by which the request came.
    pub(super) proto: Option<Value<'a>>,
}

/// Reason for which an element cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The element does not follow the grammar.
    Element,
    /// A quoted string does not end. Nothing in the field can be trusted, since nobody can say
    /// which of its text is inside of quotes.
    Quote,
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'a> {
    /// The text without its quotes.
    text: &'a [u8],
    /// Set where a backslash escapes the byte after it.
    is_quoted: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((element, rest)) = split_first(self.rest?, b',') else {
                self.rest = None;
                return Some(Err(Malformed::Quote));
            };
            self.rest = rest;
            let element = trim(element);
            if !element.is_empty() {
                return Some(Element::parse(element).ok_or(Malformed::Element));
            }
        }
    }
}

impl<'a> Element<'a> {
    /// The registered parameters (RFC 7239 §5).
    const KNOWN: [&'static [u8]; 4] = [b"for", b"proto", b"host", b"by"];

    fn parse(element: &'a [u8]) -> Option<Self> {
        let mut values = [None; Self::KNOWN.len()];
        let mut rest = Some(element);
        while let Some(text) = rest {
            let (pair, after) = split_first(text, b';')?;
            rest = after;
            let pair = trim(pair);
            if pair.is_empty() {
                continue;
            }
            let equals = pair.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (&pair[..equals], Value::parse(&pair[equals + 1..])?);
            let is_named = |known: &&[u8]| known.eq_ignore_ascii_case(name);
            match Self::KNOWN.iter().position(is_named) {
                // A parameter occurs at most once (RFC 7239 §4): of two nobody can say which holds.
                Some(index) if values[index].replace(value).is_some() => return None,
                None if !is_token(name) => return None,
                _ => {}
            }
        }
        let [node, proto, ..] = values;
        Some(Self { node, proto })
    }

    /// The address that the request came from. `None` for `unknown` and for obfuscated identifiers
    /// (RFC 7239 §6.2, §6.3), and where the element names no node.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let node = self.node?;
        let text = if node.is_quoted && node.text.contains(&b'\\') {
            Cow::Owned(node.bytes().collect())
        } else {
            Cow::Borrowed(node.text)
        };
        node_address(std::str::from_utf8(&text).ok()?)
    }

    /// Returns whether the request came over TLS, if the element names the scheme.
    pub(super) fn is_secure(&self) -> Option<bool> {
        let scheme = self.proto?.bytes().map(|byte| byte.to_ascii_lowercase());
        Some(scheme.eq(*b"https"))
    }
}

impl<'a> Value<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let Some(quoted) = text.strip_prefix(b"\"") else {
            let is_quoted = false;
            return is_token(text).then_some(Self { text, is_quoted });
        };
        let (inside, after) = quoted.split_at(closing_quote(quoted)?);
        let is_valid = after.len() == 1 && inside.iter().all(|&byte| is_quotable(byte));
        is_valid.then_some(Self {
            text: inside,
            is_quoted: true,
        })
    }

    /// The value itself, without the backslashes that escape its bytes.
    pub(super) fn bytes(self) -> impl Iterator<Item = u8> + use<'a> {
        let mut rest = self.text.iter().copied();
        std::iter::from_fn(move || match rest.next()? {
            b'\\' if self.is_quoted => rest.next(),
            byte => Some(byte),
        })
    }
}

/// The address in a node (RFC 7239 §6): an IPv4 address, or an IPv6 one in brackets, and possibly a
/// port after it.
pub(super) fn node_address(node: &str) -> Option<IpAddr> {
    let (address, port) = if let Some(bracketed) = node.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        (address.parse::<Ipv6Addr>().ok()?.into(), port)
    } else {
        let (address, port) = node.split_at(node.find(':').unwrap_or(node.len()));
        (address.parse::<Ipv4Addr>().ok()?.into(), port)
    };
    let has_good_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    has_good_port.then_some(address)
}

fn is_port(port: &str) -> bool {
    let is_hidden = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match port.strip_prefix('_') {
        Some(hidden) => !hidden.is_empty() && hidden.bytes().all(is_hidden),
        None => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}

/// Splits `text` at the first `separator` outside of quotes. `None`, when a quoted string does not
/// end.
fn split_first(text: &[u8], separator: u8) -> Option<(&[u8], Option<&[u8]>)> {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte == separator {
            return Some((&text[..at - 1], Some(&text[at..])));
        }
        if byte == b'"' {
            at += closing_quote(&text[at..])? + 1;
        }
    }
    Some((text, None))
}

/// Finds the end of the quoted string that has begun before `text`.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// `text` without the optional whitespace around it (RFC 9110 §5.6.3).
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', after @ ..] = text {
        text = after;
    }
    while let [before @ .., b' ' | b'\t'] = text {
        text = before;
    }
    text
}

/// Returns whether `text` is a token (RFC 9110 §5.6.2).
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether a quoted string can have this byte, escaped or not: any but control characters.
fn is_quotable(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests;
