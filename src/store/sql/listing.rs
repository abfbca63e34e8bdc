//! A page of keys from rows, some of them unreadable.

use crate::record::{Key, KeyId};
use crate::store::{KeyPage, StoreError, UnreadableKey};

/// A key's rows: its id as it is stored, and the key or why it cannot be read.
pub(in crate::store) struct Listed {
    pub(in crate::store) id: String,
    pub(in crate::store) key: Result<Key, StoreError>,
}

impl Listed {
    fn cursor(&self) -> Option<KeyId> {
        self.id.parse().ok()
    }
}

/// The page of at most `limit` of `rows`, newest first, where `asked` rows were asked for, more
/// than `limit`. None where more rows have to be asked for.
///
/// A page that is not the last ends with an id that is a [`KeyId`], as the next one begins below
/// it. If no id among the first `limit` is one, the page goes on to the first that is.
pub(in crate::store) fn page(mut rows: Vec<Listed>, limit: usize, asked: usize) -> Option<KeyPage> {
    let are_all = rows.len() < asked;
    let mut next = None;
    if limit == 0 {
        rows.clear();
    } else if rows.len() > limit {
        let (within, beyond) = rows.split_at(limit);
        let last = within.iter().rposition(|row| row.cursor().is_some());
        let last = last.or_else(|| {
            let first = beyond.iter().position(|row| row.cursor().is_some());
            Some(limit + first?)
        });
        match last {
            Some(last) if last + 1 < rows.len() => {
                rows.truncate(last + 1);
                next = rows[last].cursor();
            }
            _ if !are_all => return None,
            _ => {}
        }
    }
    let mut page = KeyPage::new(Vec::new(), next);
    for Listed { id, key } in rows {
        match key {
            Ok(key) => page.keys.push(key),
            // The reason names the column. The causes behind it quote its content.
            Err(error) => page.unreadable.push(UnreadableKey::new(id, error.reason())),
        }
    }
    Some(page)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// Unreadable rows of these ids.
    fn rows(ids: &[&str]) -> Vec<Listed> {
        let listed = |id: &&str| Listed {
            id: (*id).to_owned(),
            key: Err(StoreError::corrupt(id, "column `name` cannot be read")),
        };
        ids.iter().map(listed).collect()
    }

    #[test]
    fn a_page_ends_with_an_id_that_the_next_can_begin_below() {
        let good = KeyId::generate(Timestamp::UNIX_EPOCH).to_string();
        let good = good.as_str();
        // Limit, the ids, how many are asked for, and how many are listed, or none for more rows.
        for (limit, ids, asked, listed, more) in [
            (2, &[good, good, good][..], 3, Some(2), true),
            (2, &[good, good], 3, Some(2), false),
            (2, &[good, "x", good], 3, Some(1), true),
            (2, &["x", good, good], 3, Some(2), true),
            (2, &["x", "x", good], 3, None, false),
            (2, &["x", "x", good], 6, Some(3), false),
            (2, &["x", "x", good, "x"], 6, Some(3), true),
            (2, &["x", "x", "x", good, good, good], 6, Some(4), true),
            (2, &["x", "x", "x", "x", "x", "x"], 6, None, false),
            (2, &["x", "x", "x", "x", "x"], 6, Some(5), false),
            (0, &[good], 1, Some(0), false),
        ] {
            let page = page(rows(ids), limit, asked);
            let outcome = page.map(|page| (page.unreadable.len(), page.next.is_some()));
            assert_eq!(
                outcome,
                listed.map(|listed| (listed, more)),
                "{limit} of {ids:?}"
            );
        }
    }
}
