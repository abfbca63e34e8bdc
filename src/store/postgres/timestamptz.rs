use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::store::sql::columns::{micros, micros_from, timestamp};

/// A `timestamptz` as PostgreSQL sends and takes it: in microseconds since 2000-01-01 00:00 UTC.
///
/// Exactly those: through `to_timestamp` they would pass a `double precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamptz(i64);

/// From the Unix epoch to PostgreSQL's own.
const EPOCH: i64 = 946_684_800_000_000;

/// 4714-11-24 BC, where PostgreSQL's calendar begins. A `Timestamp` begins earlier.
const FIRST: i64 = -211_813_488_000_000_000;

impl Timestamptz {
    /// The first stored time that is not before `time`: what a range has to be compared with.
    pub(super) fn not_before(time: Timestamp) -> Self {
        Self::from_micros(micros_from(time))
    }

    /// The time, where a [`Timestamp`] can be it: not `infinity`, nor after the year 9999.
    pub(super) fn timestamp(self) -> Result<Timestamp, jiff::Error> {
        timestamp(self.0.saturating_add(EPOCH))
    }

    fn from_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(EPOCH).max(FIRST))
    }
}

/// The rest below a microsecond is cut off downwards.
impl From<Timestamp> for Timestamptz {
    fn from(time: Timestamp) -> Self {
        Self::from_micros(micros(time))
    }
}

impl Type<Postgres> for Timestamptz {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Timestamptz {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Timestamptz {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&self.0, buffer)
    }
}

/// In the binary format, which is that of every statement with parameters.
impl Decode<'_, Postgres> for Timestamptz {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_and_never_overflow() {
        let micros = |micros: i128| Timestamp::from_nanosecond(micros * 1_000).unwrap();
        assert_eq!(
            Timestamptz::from(micros(i128::from(EPOCH) + 7)),
            Timestamptz(7)
        );
        for time in [micros(0), micros(-1), micros(253_402_207_200_999_999)] {
            assert_eq!(Timestamptz::from(time).timestamp().unwrap(), time);
            assert_eq!(Timestamptz::not_before(time), Timestamptz::from(time));
        }
        assert_eq!(Timestamptz::from(Timestamp::MIN), Timestamptz(FIRST));
        for infinity in [i64::MIN, i64::MAX] {
            assert!(Timestamptz(infinity).timestamp().is_err());
        }
    }
}
