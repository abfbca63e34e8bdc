use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

/// The files at `path`: itself, or all below it, in the order of their names.
pub(super) fn under(path: &Path, no_ignore: bool) -> impl Iterator<Item = Result<PathBuf, String>> {
    let walk = WalkBuilder::new(path)
        // Keys leak in `.env` before they leak anywhere else.
        .hidden(false)
        .standard_filters_of(no_ignore)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    walk.filter_map(|entry| match entry {
        // Not what is neither: to open a pipe would wait for whoever writes into it.
        Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_file()) => {
            Some(Ok(entry.into_path()))
        }
        Ok(_) => None,
        Err(error) => Some(Err(error.to_string())),
    })
}

trait Filters {
    fn standard_filters_of(&mut self, no_ignore: bool) -> &mut Self;
}

impl Filters for WalkBuilder {
    fn standard_filters_of(&mut self, no_ignore: bool) -> &mut Self {
        self.ignore(!no_ignore)
            .git_ignore(!no_ignore)
            .git_global(!no_ignore)
            .git_exclude(!no_ignore)
            .parents(!no_ignore)
            // Also where a copy of the files has no repository around it.
            .require_git(false)
    }
}
