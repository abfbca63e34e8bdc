//! Errors of Redis URLs without any part of the URL: each may hold a password.

use redis::RedisError;

/// `error`, which reading a URL gave, unless it quotes from the URL.
pub(crate) fn without_detail(error: RedisError) -> RedisError {
    match error.detail() {
        Some(_) => RedisError::from((error.kind(), "the Redis URL cannot be used")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_quoted() {
        for url in [
            "redis://user:hunter2@h/?protocol=hunter2",
            "redis://user:hunter2@h/hunter2",
            "redis://user:hunter2@h:port",
            "hunter2",
        ] {
            let Err(error) = redis::Client::open(url) else {
                panic!("{url} was accepted");
            };
            let error = without_detail(error);
            let told = format!("{error} {error:?}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
