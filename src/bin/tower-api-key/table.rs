use comfy_table::{Cell, Table, presets};

use crate::failure::Failure;
use crate::output::{Output, plain};

/// Columns for people to read: no lines, nothing cut off, two spaces between.
pub(crate) struct Columns(Table);

impl Columns {
    pub(crate) fn new<const N: usize>(names: [&str; N]) -> Self {
        let mut columns = Self::unnamed();
        columns.0.set_header(names);
        columns
    }

    pub(crate) fn unnamed() -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        Self(table)
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| Cell::new(plain(&cell))));
    }

    pub(crate) fn write(mut self, output: &mut Output) -> Result<(), Failure> {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in self.0.lines() {
            output.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// What a cell shows where there is nothing.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
