use sha2::{Digest, Sha256};

use crate::store::StoreError;

/// Where the tables are, and the channel on which their changes are told.
#[derive(Debug)]
pub(super) struct Schema {
    name: String,
    quoted: String,
    channel: String,
}

/// What PostgreSQL keeps of a name (`NAMEDATALEN`), in bytes. It would cut off the rest silently,
/// and two long names would be one.
const MOST: usize = 63;

impl Schema {
    pub(super) const DEFAULT: &str = "tower_api_key";

    /// The schema called `name`, as it is: with its case, spaces and quotes.
    pub(super) fn new(name: &str) -> Result<Self, StoreError> {
        if name.is_empty() || name.len() > MOST || name.contains('\0') {
            return Err(StoreError::unavailable(
                "the name of a schema has 1 to 63 bytes, and no NUL",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            quoted: format!("\"{}\"", name.replace('"', "\"\"")),
            channel: channel(name),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As it is written in a statement.
    pub(super) fn quoted(&self) -> &str {
        &self.quoted
    }

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// `template` with the schema for each `{schema}`. Not by a search path, which would have to be
    /// set on connections that the application may share.
    pub(super) fn sql(&self, template: &str) -> String {
        template.replace("{schema}", &self.quoted)
    }
}

/// The same as the function `channel` of the migrations.
fn channel(schema: &str) -> String {
    if schema == Schema::DEFAULT {
        return schema.to_owned();
    }
    let channel = format!("{}.{schema}", Schema::DEFAULT);
    if channel.len() <= MOST {
        return channel;
    }
    let hash = Sha256::digest(schema);
    let first_half = hash[..16]
        .iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte));
    format!("{}.{first_half:032x}", Schema::DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_quotes() {
        let schema = Schema::new("a\"; DROP SCHEMA public; --{schema}").unwrap();
        assert_eq!(
            schema.sql("FROM {schema}.keys"),
            "FROM \"a\"\"; DROP SCHEMA public; --{schema}\".keys"
        );
        for refused in ["", "nul\0", &"x".repeat(64), &"é".repeat(32)] {
            assert!(Schema::new(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn each_schema_has_a_channel_of_its_own() {
        let long = |last: char| Schema::new(&format!("{}{last}", "x".repeat(62))).unwrap();
        let channels = [
            Schema::new(Schema::DEFAULT).unwrap(),
            Schema::new("public").unwrap(),
            Schema::new("Public").unwrap(),
            long('y'),
            long('z'),
        ];
        let mut channels: Vec<_> = channels.iter().map(Schema::channel).collect();
        assert_eq!(channels[0], "tower_api_key");
        assert_eq!(channels[1], "tower_api_key.public");
        assert!(channels.iter().all(|channel| channel.len() <= MOST));
        channels.sort_unstable();
        channels.dedup();
        assert_eq!(channels.len(), 5);
    }
}
