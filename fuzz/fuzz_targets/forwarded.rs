//! Any `Forwarded` header is read as RFC 7239 has it. No text within quotes becomes an element or a
//! parameter, and a quote that does not close is noticed.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;

// The parser is no part of the crate's interface, so its file is compiled here once more.
#[path = "../../src/middleware/forwarded.rs"]
#[allow(dead_code)]
mod forwarded;

fuzz_target!(|data: &[u8]| {
    // The first byte says whether the rest is a line, or what a client wrote into a proxy's
    // element.
    let Some((&choice, text)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        check_line(text);
    } else {
        check_quoted(text, choice);
    }
});

/// The parser and a second reading agree on every line.
fn check_line(line: &[u8]) {
    let found: Vec<_> = forwarded::elements(line)
        .map(|element| {
            element.map(|element| {
                let value = |value: Option<forwarded::Value<'_>>| value.map(|it| it.bytes().collect());
                (value(element.node), value(element.proto))
            })
        })
        .collect();
    let Some(expected) = second_reading(line) else {
        assert_eq!(found.last(), Some(&Err(forwarded::Malformed::Quote)), "{line:?}");
        return;
    };
    let found: Vec<Option<(Text, Text)>> = found.into_iter().map(Result::ok).collect();
    assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(line));
    for element in forwarded::elements(line).flatten() {
        let node: Option<Vec<u8>> = element.node.map(|node| node.bytes().collect());
        let address = node.as_deref().and_then(address);
        assert_eq!(element.address(), address, "{node:?}");
    }
}

type Text = Option<Vec<u8>>;

/// A proxy's element whose `host` is whatever the client sent, with its quotes and backslashes
/// escaped, is one element that names the client as the proxy does.
fn check_quoted(text: &[u8], choice: u8) {
    if text.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
        return;
    }
    let mut host = Vec::new();
    for &byte in text {
        // A proxy may escape any byte.
        if matches!(byte, b'"' | b'\\') || choice & 2 != 0 {
            host.push(b'\\');
        }
        host.push(byte);
    }
    let lines = [
        [b"for=203.0.113.1;host=\"", &host[..], b"\""].concat(),
        [b"host=\"", &host[..], b"\";for=203.0.113.1"].concat(),
        [b"for=203.0.113.1;x=\"", &host[..], b"\" ; proto=http"].concat(),
    ];
    for line in lines {
        let elements: Vec<_> = forwarded::elements(&line).collect();
        let [Ok(element)] = &elements[..] else {
            panic!("{:?}", String::from_utf8_lossy(&line));
        };
        assert_eq!(element.address(), Some([203, 0, 113, 1].into()));
        assert_ne!(element.is_secure(), Some(true));
    }
}

/// The elements of a line, read byte by byte with a state instead of slices. `None`, where a quote
/// does not close.
fn second_reading(line: &[u8]) -> Option<Vec<Option<(Text, Text)>>> {
    let mut elements = Vec::new();
    let mut pairs: Vec<Vec<Symbol>> = vec![Vec::new()];
    let mut state = State::Plain;
    for &byte in line {
        let last = pairs.last_mut().expect("there is one");
        state = match (state, byte) {
            (State::Plain, b',') => {
                elements.extend(element(std::mem::replace(&mut pairs, vec![Vec::new()])));
                State::Plain
            }
            (State::Plain, b';') => {
                pairs.push(Vec::new());
                State::Plain
            }
            (State::Plain, b'"') => {
                last.push(Symbol::Open);
                State::Quoted
            }
            (State::Plain, byte) => {
                last.push(Symbol::Plain(byte));
                State::Plain
            }
            (State::Quoted, b'"') => {
                last.push(Symbol::Close);
                State::Plain
            }
            (State::Quoted, b'\\') => State::Escaped,
            (State::Quoted | State::Escaped, byte) => {
                last.push(Symbol::Quoted(byte));
                State::Quoted
            }
        };
    }
    if state != State::Plain {
        return None;
    }
    elements.extend(element(pairs));
    Some(elements)
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Plain,
    Quoted,
    Escaped,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Symbol {
    Plain(u8),
    Open,
    Quoted(u8),
    Close,
}

/// An element, unless there is nothing in it at all; `None` within for one that does not parse.
fn element(pairs: Vec<Vec<Symbol>>) -> Option<Option<(Text, Text)>> {
    let is_space = |symbol: &Symbol| matches!(symbol, Symbol::Plain(b' ' | b'\t'));
    if pairs.len() == 1 && pairs[0].iter().all(is_space) {
        return None;
    }
    let mut values: [Text; 4] = Default::default();
    for pair in pairs {
        let begin = pair.iter().position(|symbol| !is_space(symbol));
        let Some(begin) = begin else { continue };
        let end = pair.iter().rposition(|symbol| !is_space(symbol))?;
        let pair = &pair[begin..=end];
        let Some(equals) = pair.iter().position(|&symbol| symbol == Symbol::Plain(b'=')) else {
            return Some(None);
        };
        let (Some(name), Some(value)) = (token(&pair[..equals]), value(&pair[equals + 1..])) else {
            return Some(None);
        };
        let index = match name.to_ascii_lowercase().as_slice() {
            b"for" => 0,
            b"proto" => 1,
            b"host" => 2,
            b"by" => 3,
            _ => continue,
        };
        if values[index].replace(value).is_some() {
            return Some(None);
        }
    }
    let [node, proto, ..] = values;
    Some(Some((node, proto)))
}

fn token(symbols: &[Symbol]) -> Option<Vec<u8>> {
    let byte = |symbol: &Symbol| match *symbol {
        Symbol::Plain(byte @ (b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~')) => {
            Some(byte)
        }
        Symbol::Plain(byte @ (b'0'..=b'9' | b'A'..=b'Z')) => Some(byte),
        _ => None,
    };
    let text: Option<Vec<u8>> = symbols.iter().map(byte).collect();
    text.filter(|text| !text.is_empty())
}

fn value(symbols: &[Symbol]) -> Option<Vec<u8>> {
    let [Symbol::Open, inside @ .., Symbol::Close] = symbols else {
        return token(symbols);
    };
    let byte = |symbol: &Symbol| match *symbol {
        Symbol::Quoted(byte @ (b'\t' | b' '..=b'~' | 0x80..)) => Some(byte),
        _ => None,
    };
    inside.iter().map(byte).collect()
}

/// The address of a node, by the standard library's reading of addresses with a port.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(node).ok()?;
    let (host, port) = match node.rfind([':', ']']) {
        Some(at) if node.as_bytes()[at] == b':' => (&node[..at], Some(&node[at + 1..])),
        _ => (node, None),
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let hidden = port.strip_prefix('_').is_some_and(|hidden| {
            let is_hidden = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !hidden.is_empty() && hidden.bytes().all(is_hidden)
        });
        if !(hidden || digits && port.parse::<u16>().is_ok()) {
            return None;
        }
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match (bracketed, host.parse()) {
        (Some(inside), _) => inside.parse().ok().map(IpAddr::V6),
        (None, Ok(address @ IpAddr::V4(_))) => Some(address),
        _ => None,
    }
}
