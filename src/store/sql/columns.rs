//! Between a column and a type. Whatever a column holds, reading it never panics.

use std::error::Error;
use std::fmt;

use jiff::Timestamp;
use sqlx::{ColumnIndex, Decode, Row, Type};

type BoxError = Box<dyn Error + Send + Sync>;

/// The column as its own type.
pub(in crate::store) fn plain<'r, R, T>(
    row: &'r R,
    column: &'static str,
) -> Result<T, UnreadableColumn>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(column).map_err(|error| UnreadableColumn {
        column,
        source: error.into(),
    })
}

/// What `parse` makes of the column.
pub(in crate::store) fn parsed<'r, R, Stored, T, E>(
    row: &'r R,
    column: &'static str,
    parse: impl FnOnce(Stored) -> Result<T, E>,
) -> Result<T, UnreadableColumn>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    Stored: Decode<'r, R::Database> + Type<R::Database>,
    E: Into<BoxError>,
{
    parse(plain(row, column)?).map_err(|error| UnreadableColumn {
        column,
        source: error.into(),
    })
}

/// The column `id` as it is, also where it is no [`KeyId`](crate::KeyId).
pub(in crate::store) fn id_text<'r, R>(row: &'r R) -> String
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get("id")
        .unwrap_or_else(|_| "(its id is unreadable too)".to_owned())
}

/// Which column of a row cannot be read, and why.
#[derive(Debug)]
pub(in crate::store) struct UnreadableColumn {
    column: &'static str,
    source: BoxError,
}

impl fmt::Display for UnreadableColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column `{}` cannot be read", self.column)
    }
}

impl Error for UnreadableColumn {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// `time` as it is stored: in microseconds since the epoch, the rest cut off downwards, so that
/// nothing ends later than it was told to.
pub(in crate::store) fn micros(time: Timestamp) -> i64 {
    saturating(time.as_nanosecond().div_euclid(1_000))
}

/// The first stored time that is not before `time`: what a range has to be compared with.
pub(in crate::store) fn micros_from(time: Timestamp) -> i64 {
    saturating(-(-time.as_nanosecond()).div_euclid(1_000))
}

/// The time that was stored as `micros`. `Timestamp::from_microsecond` refuses the last second that
/// a timestamp can have.
pub(in crate::store) fn timestamp(micros: i64) -> Result<Timestamp, jiff::Error> {
    Timestamp::from_nanosecond(i128::from(micros) * 1_000)
}

/// `count` as it is stored: in the 63 bits that databases have for it.
pub(in crate::store) fn saturating(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_two_microseconds_are_stored_as_the_earlier_one() {
        let nanos = |nanos| Timestamp::from_nanosecond(nanos).unwrap();
        assert_eq!((micros(nanos(1_999)), micros_from(nanos(1_999))), (1, 2));
        assert_eq!((micros(nanos(2_000)), micros_from(nanos(2_000))), (2, 2));
        assert_eq!((micros(nanos(-1)), micros_from(nanos(-1))), (-1, 0));
        for edge in [Timestamp::MIN, Timestamp::MAX] {
            assert!(timestamp(micros(edge)).is_ok());
        }
    }

    #[test]
    fn counts_beyond_63_bits_saturate() {
        assert_eq!(saturating(u64::MAX), i64::MAX);
        assert_eq!(saturating(usize::MAX), i64::MAX);
    }
}
