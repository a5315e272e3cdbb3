//! Reads a row into a struct, by the names of its columns.

/// Implements `FromRow` for a struct: each field is the column of its name.
///
/// sqlx derives the same, but its crate of macros compiles sqlx, tokio and rustls a second time: a quarter of
/// the time that the bridge takes to build. A field that is forgotten here does not compile.
macro_rules! from_row {
    ($row:ident { $($field:ident),+ $(,)? }) => {
        impl<'r> ::sqlx::FromRow<'r, ::sqlx::postgres::PgRow> for $row {
            fn from_row(row: &'r ::sqlx::postgres::PgRow) -> Result<Self, ::sqlx::Error> {
                Ok(Self { $($field: ::sqlx::Row::try_get(row, stringify!($field))?),+ })
            }
        }
    };
}

pub(super) use from_row;
