//! Whether a key works, and if not, why: what a client is never told, an operator may know.

use std::net::IpAddr;

use tower_api_key::{
    ApiKeys, Attempt, CreditBalance, DenialReason, Key, KeyDigest, KeyId, Requirements, Verifier,
};

use crate::credits;
use crate::failure::Failure;

/// What can be said of a presented text.
pub(crate) struct Standing {
    /// None: it works.
    pub(crate) refused: Option<DenialReason>,
    /// The key that it is of, where it is one that is stored.
    pub(crate) key: Option<Key>,
    /// What is left of its budget, if it has one.
    pub(crate) balance: Option<CreditBalance>,
    /// Which of the key's credentials it is, where that can be told.
    pub(crate) imported: bool,
}

/// Asks as a server would about a request of this cost, but without any use being counted or any
/// limit or credits being charged: the verifier has no recorder, and its limits are its own.
pub(crate) async fn of(
    text: &str,
    address: Option<IpAddr>,
    needs: &Requirements,
    cost: u64,
    verifier: &Verifier,
    keys: &ApiKeys,
) -> Result<Standing, Failure> {
    // A verifier that writes nothing refuses to charge credits; they are looked at below.
    let needs = &needs.clone().cost(0);
    let ask = async |address| {
        let attempt = Attempt::new(text).from_address(address);
        match verifier.verify(attempt, needs).await {
            Ok(admitted) => Ok((None, Some(admitted.principal().key_id()))),
            Err(denial) if denial.reason() == DenialReason::Store => {
                Err(Failure::caused_by("the store cannot tell", &denial))
            }
            Err(denial) => Ok((Some(denial.reason()), denial.key_id())),
        }
    };
    let (mut refused, id): (_, Option<KeyId>) = ask(address).await?;
    let key = match id {
        Some(id) => Some(keys.get(id).await?),
        None => None,
    };
    // Nobody has named an address, so it is not what is asked about: any that is allowed will do.
    if let (Some(DenialReason::Address), None, Some(key)) = (refused, address, &key) {
        let allowed = key.record.allowed_addresses.first().map(ipnet::IpNet::addr);
        (refused, _) = ask(allowed).await?;
    }
    // Imported keys are looked for under any text. What is no text of this format either was
    // rather mistyped.
    if refused == Some(DenialReason::Unknown) && verifier.format().parse(text).is_err() {
        refused = Some(DenialReason::Malformed);
    }
    let balance = match &key {
        Some(key) => credits::balance(keys, key).await?,
        None => None,
    };
    if refused.is_none() && balance.is_some_and(|left| left.remaining < cost) {
        refused = Some(DenialReason::Credits);
    }
    let imported = key.as_ref().is_some_and(|key| {
        let digest = KeyDigest::sha256(text);
        let mut credentials = key.credentials.iter();
        credentials.any(|credential| credential.imported && credential.digest == digest)
    });
    Ok(Standing {
        refused,
        key,
        balance,
        imported,
    })
}

/// A word for a table, as a server's log has it.
pub(crate) fn word(refused: Option<DenialReason>) -> &'static str {
    refused.map_or("active", DenialReason::as_str)
}
