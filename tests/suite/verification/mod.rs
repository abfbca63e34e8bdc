//! Which keys are good for what, in which order it is asked, and what it costs.

mod digests;
mod limits;
mod policy;
mod secrecy;

use std::net::IpAddr;

use tower_api_key::{ApiKeys, Attempt, Denial, Pepper, Requirements, Verified};

async fn ask(keys: &ApiKeys, text: &str, needs: &Requirements) -> Result<Verified, Denial> {
    keys.verifier().verify(Attempt::new(text), needs).await
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pepper(id: &str, byte: u8) -> Pepper {
    Pepper::new(id, &[byte; 32]).unwrap()
}
