use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// The elements of a line: what `for` and `proto` hold, and `None` for one that does not parse.
fn read(line: &[u8]) -> Vec<Option<[Option<Vec<u8>>; 2]>> {
    let value = |value: Option<Value<'_>>| value.map(|value| value.bytes().collect());
    elements(line)
        .map(|element| {
            element
                .ok()
                .map(|element| [value(element.node), value(element.proto)])
        })
        .collect()
}

fn address(line: &str) -> Option<IpAddr> {
    let mut elements = elements(line.as_bytes());
    let element = elements.next()?.ok()?;
    assert!(elements.next().is_none(), "{line}");
    element.address()
}

#[test]
fn nodes_are_read_as_rfc_7239_writes_them() {
    let v4 = Some(IpAddr::from([192, 0, 2, 43]));
    let v6 = Some(IpAddr::V6("2001:db8:cafe::17".parse().unwrap()));
    for (line, wanted) in [
        ("for=192.0.2.43", v4),
        ("FOR=192.0.2.43", v4),
        (r#"for="192.0.2.43""#, v4),
        (r#"for="192.0.2.43:47011""#, v4),
        (r#"for="192.0.2.43:_port""#, v4),
        (r#"for="192\.0.2.\43""#, v4),
        (r#"For="[2001:db8:cafe::17]""#, v6),
        (r#"For="[2001:db8:cafe::17]:4711""#, v6),
        ("for=unknown", None),
        ("for=_hidden", None),
        (r#"for="_SEVKISEK""#, None),
        ("by=192.0.2.43", None),
        // A token has no colon and no bracket, and an IPv6 address stands in brackets.
        ("for=192.0.2.43:47011", None),
        ("for=[2001:db8:cafe::17]", None),
        (r#"for="2001:db8:cafe::17""#, None),
        (r#"for="[192.0.2.43]""#, None),
        (r#"for="[fe80::1%eth0]""#, None),
        (r#"for="192.0.2.43:""#, None),
        (r#"for="192.0.2.43:+80""#, None),
        (r#"for="192.0.2.43:99999""#, None),
        (r#"for="192.0.2.43:_""#, None),
        (r#"for=" 192.0.2.43""#, None),
        ("for=192.0.2.043", None),
        ("for=0xc0.0.2.43", None),
        (r#"for="""#, None),
    ] {
        assert_eq!(address(line), wanted, "{line}");
    }
    // No part has a longest form, other than the address.
    let long = "1".repeat(10_000);
    assert_eq!(address(&format!(r#"for="{long}""#)), None);
    assert_eq!(address(&format!(r#"for="192.0.2.43:_{long}""#)), v4);
    assert_eq!(address(&format!(r#"for="192.0.2.\43:_{long}""#)), v4);
}

#[test]
fn what_does_not_follow_the_grammar_is_no_element() {
    for element in [
        "for",
        "for=",
        "=192.0.2.1",
        "for =192.0.2.1",
        "for= 192.0.2.1",
        "for=192.0.2.1 proto=https",
        r#"for="192.0.2.1"x"#,
        r#"for=x"192.0.2.1""#,
        r#""for"=192.0.2.1"#,
        "for=192.0.2.1;for=192.0.2.1",
        "for=192.0.2.1;FOR=192.0.2.2",
        "for=192.0.2.1;proto=http;proto=https",
        "for=192.0.2.1;host=a;host=b",
        "for=192.0.2.1;a b=c",
        "for=192.0.2.1;@=c",
        r"for=192.0.2.1;host=a\b",
        "for=192.0.2.1;host=\u{e4}",
    ] {
        assert_eq!(read(element.as_bytes()), [None], "{element}");
        // The elements around it are not touched.
        let line = format!("for=a, {element} ,for=b");
        let [first, None, last] = &read(line.as_bytes())[..] else {
            panic!("{line}")
        };
        assert_eq!([first, last].map(Option::is_some), [true; 2], "{line}");
    }
    assert_eq!(read(b"for=192.0.2.1;host=\xe4"), [None]);
    assert_eq!(read(b"for=192.0.2.1;host=\"\x7f\""), [None]);
    assert_eq!(
        read(b"for=192.0.2.1;host=\"\xe4\t\""),
        read(b"for=192.0.2.1")
    );
}

#[test]
fn a_quote_that_does_not_close_is_told_apart() {
    for line in [
        r#"for="192.0.2.1"#,
        r#"for=192.0.2.1;host="a, for=192.0.2.2"#,
        r#"for=192.0.2.1;host="a\", for=192.0.2.2"#,
        r#"for=192.0.2.1;host="a\"#,
        r#"for=192.0.2.1""#,
        r#"for="192.0.2.1"";proto=https"#,
        r#"x", for=192.0.2.1"#,
    ] {
        let last = elements(line.as_bytes()).last();
        assert_eq!(last, Some(Err(Malformed::Quote)), "{line}");
    }
}

#[test]
fn empty_elements_and_parameters_are_skipped() {
    let one = read(b"for=a;proto=b");
    for line in [
        ",for=a;proto=b",
        " , ,for=a;proto=b,\t,",
        ";for=a;;proto=b;",
        "for=a ; proto=b",
        "for=a\t;\tproto=b ;",
    ] {
        assert_eq!(read(line.as_bytes()), one, "{line}");
    }
    assert_eq!(read(b""), []);
    assert_eq!(read(b" ,, "), []);
    // An element that says nothing is still one.
    assert_eq!(read(b";"), [Some([None, None])]);
}

/// A parameter as a proxy writes it.
#[derive(Clone, Debug)]
struct Pair {
    name: String,
    value: Vec<u8>,
    as_token: bool,
}

impl Pair {
    fn write(&self, line: &mut Vec<u8>) {
        line.extend(self.name.as_bytes());
        line.push(b'=');
        if self.as_token && is_token(&self.value) {
            return line.extend(&self.value);
        }
        line.push(b'"');
        for &byte in &self.value {
            if matches!(byte, b'"' | b'\\') {
                line.push(b'\\');
            }
            line.push(byte);
        }
        line.push(b'"');
    }
}

/// Pieces that a client would break out of a value with, if anything could.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces = select(vec![
        &b","[..],
        b", ",
        b";",
        b"\"",
        b"\\",
        b"=",
        b" ",
        b"\t",
        b"for=192.0.2.7",
        b"proto=https",
        b"\xff",
        b"a",
    ]);
    vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

/// An element with `for` and `proto`, or without, among parameters that hold anything.
fn element() -> impl Strategy<Value = Vec<Pair>> {
    let pair = |names: &'static [&'static str]| {
        (select(names), hostile(), any::<bool>()).prop_map(|(name, value, as_token)| Pair {
            name: name.to_owned(),
            value,
            as_token,
        })
    };
    let known = [
        pair(&["for", "For", "FOR"]),
        pair(&["proto", "Proto"]),
        pair(&["host", "HOST"]),
        pair(&["by"]),
    ];
    let known = known.map(proptest::option::of);
    let others = vec(pair(&["x", "forx", "!for", "fo", "for-"]), 0..3);
    (known, others)
        .prop_map(|(known, others)| known.into_iter().flatten().chain(others).collect())
        .prop_filter("it says something", |pairs: &Vec<_>| !pairs.is_empty())
        .prop_flat_map(|pairs| Just(pairs).prop_shuffle())
}

fn joined<T>(items: &[T], separator: &str, mut write: impl FnMut(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut line = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            line.extend(separator.as_bytes());
        }
        write(item, &mut line);
    }
    line
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_value_never_makes_an_element_or_a_parameter(
        written in vec(element(), 0..5),
        comma in select(vec![",", ", ", " ,\t", ",,", " , ;x=1, "]),
        semicolon in select(vec![";", " ; ", ";;"]),
    ) {
        let line = joined(&written, comma, |element, line| {
            line.extend(joined(element, semicolon, Pair::write));
        });
        let value = |element: &[Pair], name: &str| {
            let found = element.iter().find(|pair| pair.name.eq_ignore_ascii_case(name));
            found.map(|pair| pair.value.clone())
        };
        let mut wanted = Vec::new();
        for (index, element) in written.iter().enumerate() {
            if index > 0 && comma.contains('x') {
                wanted.push(Some([None, None]));
            }
            wanted.push(Some([value(element, "for"), value(element, "proto")]));
        }
        prop_assert_eq!(read(&line), wanted);
    }

    /// A client's text to the left of a proxy's own element makes the client unknown at most.
    #[test]
    fn nothing_to_the_left_changes_what_a_proxy_says(before in hostile(), inside in hostile()) {
        let mut line = before;
        line.extend(b", for=203.0.113.1");
        let host = Pair { name: ";host".to_owned(), value: inside, as_token: false };
        host.write(&mut line);
        let last = elements(&line).last().expect("an element");
        let address = last.ok().and_then(|element| element.address());
        let own = Some(IpAddr::from([203, 0, 113, 1]));
        prop_assert!(address.is_none() || address == own, "{address:?}");
    }

    #[test]
    fn every_address_is_read_back(v4: u32, v6: u128, port: u16) {
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        for (node, wanted) in [
            (format!("{v4}"), IpAddr::V4(v4)),
            (format!("{v4}:{port}"), IpAddr::V4(v4)),
            (format!("[{v6}]"), IpAddr::V6(v6)),
            (format!("[{v6}]:{port}"), IpAddr::V6(v6)),
        ] {
            prop_assert_eq!(address(&format!("proto=http;for=\"{node}\"")), Some(wanted));
        }
    }

    #[test]
    fn any_bytes_can_be_read(line in vec(any::<u8>(), 0..80)) {
        let count = elements(&line).count();
        prop_assert!(count <= line.len());
    }
}
