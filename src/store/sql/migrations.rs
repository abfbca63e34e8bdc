//! The steps that bring a database's tables up to date.

use std::borrow::Cow;

use sqlx::SqlSafeStr;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migration, MigrationType};

/// One step: its number, counting from 1, what it is about, and its statements.
pub(in crate::store) fn step(
    version: i64,
    description: &'static str,
    sql: &'static str,
) -> Migration {
    Migration::new(
        version,
        Cow::Borrowed(description),
        MigrationType::Simple,
        sql.into_sql_str(),
        false,
    )
}

/// Takes those of `steps` that `table` does not have yet, and writes them there. The caller has
/// locked the others out.
pub(in crate::store) async fn take(
    connection: &mut impl Migrate,
    table: &str,
    steps: &[Migration],
) -> Result<(), MigrateError> {
    connection.ensure_migrations_table(table).await?;
    let taken = connection.list_applied_migrations(table).await?;
    for step in missing(steps, &taken)? {
        connection.apply(table, step).await?;
    }
    Ok(())
}

/// Those of `steps` that were not taken yet.
///
/// A step that was taken but is not known is a later version's, whose tables this one must not
/// touch.
pub(in crate::store) fn missing<'a>(
    steps: &'a [Migration],
    taken: &[AppliedMigration],
) -> Result<Vec<&'a Migration>, MigrateError> {
    let unknown = taken
        .iter()
        .find(|taken| steps.iter().all(|step| step.version != taken.version));
    if let Some(later) = unknown {
        return Err(MigrateError::VersionMissing(later.version));
    }
    let mut missing = Vec::new();
    for step in steps {
        match taken.iter().find(|taken| taken.version == step.version) {
            Some(taken) if taken.checksum != step.checksum => {
                return Err(MigrateError::VersionMismatch(step.version));
            }
            Some(_) => {}
            None => missing.push(step),
        }
    }
    Ok(missing)
}
