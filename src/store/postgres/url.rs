//! Reading a PostgreSQL URL without repeating any part of it: each may hold a password.

use std::borrow::Cow;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::store::StoreError;

/// The options in `url`, which begins with `postgres://` or `postgresql://`.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    // sqlx takes any scheme.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(StoreError::unavailable(
            "no PostgreSQL database: give `postgres://user:password@host/database`",
        ));
    }
    let (known, has_unknown) = without_unknown(url);
    // Not with sqlx's error, which quotes values.
    let options = PgConnectOptions::from_str(&known).map_err(|_| {
        StoreError::unavailable(
            "the URL cannot be read: in a user or password write `@`, `/`, `#`, `?` and `:` as \
             `%40`, `%2F`, `%23`, `%3F` and `%3A`, and check its parameters",
        )
    })?;
    if has_unknown {
        tracing::warn!("parameters of the PostgreSQL URL that are not known here are ignored");
    }
    Ok(options)
}

/// The URL without the parameters that sqlx ignores, and whether there were any. sqlx would log
/// their values.
fn without_unknown(url: &str) -> (Cow<'_, str>, bool) {
    let Some((address, query)) = url.split_once('?') else {
        return (Cow::Borrowed(url), false);
    };
    let parameters = query.split('&');
    let known: Vec<_> = parameters.filter(|parameter| is_known(parameter)).collect();
    if known.len() == query.split('&').count() {
        return (Cow::Borrowed(url), false);
    }
    (Cow::Owned(format!("{address}?{}", known.join("&"))), true)
}

/// Those that sqlx takes.
fn is_known(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    matches!(
        name,
        "" | "application_name"
            | "dbname"
            | "host"
            | "hostaddr"
            | "options"
            | "password"
            | "port"
            | "ssl-ca"
            | "ssl-cert"
            | "ssl-key"
            | "ssl-mode"
            | "ssl-root-cert"
            | "sslcert"
            | "sslkey"
            | "sslmode"
            | "sslrootcert"
            | "statement-cache-capacity"
            | "user"
    ) || ["options[", "options%5B", "options%5b"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_that_sqlx_knows_are_left() {
        for (url, known) in [
            ("postgres://h/d", "postgres://h/d"),
            (
                "postgres://h/d?sslmode=require&options=-c%20a=b&options[a]=b",
                "postgres://h/d?sslmode=require&options=-c%20a=b&options[a]=b",
            ),
            (
                "postgres://h/d?passwrd=hunter2&user=u&connect_timeout=10",
                "postgres://h/d?user=u",
            ),
        ] {
            assert_eq!(without_unknown(url), (known.into(), url != known), "{url}");
        }
    }
}
