//! Which field of `Value` a type goes into.

use postgres_types::{Kind as TypeKind, Type};
use walbus::logical::Definition;
use walbus::proto::pgoutput::Type as NamedType;

/// How the text of a type's values is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Bytes,
    Date,
    Float,
    Integer,
    Json,
    /// As it is.
    Text,
    Time,
    Timestamp,
    Uuid,
}

/// A column's type: its values, or those of its arrays' elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    Array(Kind),
    Scalar(Kind),
}

/// The kind of a column's type. A domain counts as the type below it, which is what its name says.
pub(super) fn of_column(type_oid: u32, named: Option<&NamedType>) -> ColumnKind {
    match builtin(type_oid, named) {
        Some(found) => match found.kind() {
            TypeKind::Array(element) => of_array(element),
            _ => ColumnKind::Scalar(of_scalar(&found).unwrap_or(Kind::Text)),
        },
        None => ColumnKind::Scalar(Kind::Text),
    }
}

/// The name of a column's type, with its schema where that is not `pg_catalog`.
pub(super) fn name_of(definition: &Definition, column: usize) -> String {
    let type_oid = definition.relation.columns.get(column).map_or(0, |column| column.type_oid);
    match definition.types.get(column).and_then(Option::as_deref) {
        Some(named) if named.schema.is_empty() || named.schema == "pg_catalog" => named.name.clone(),
        Some(named) => format!("{}.{}", named.schema, named.name),
        None => Type::from_oid(type_oid).map_or_else(|| type_oid.to_string(), |found| found.name().to_owned()),
    }
}

fn builtin(type_oid: u32, named: Option<&NamedType>) -> Option<Type> {
    let Some(named) = named else { return Type::from_oid(type_oid) };
    if !named.schema.is_empty() && named.schema != "pg_catalog" {
        return None;
    }
    let name = named.name.as_str();
    let scalars = [
        Type::BOOL,
        Type::BYTEA,
        Type::DATE,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::OID,
        Type::JSON,
        Type::JSONB,
        Type::TIME,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::UUID,
    ];
    scalars.into_iter().find(|known| known.name() == name)
}

/// Arrays whose elements stand between commas and have a field of their own, or are texts.
fn of_array(element: &Type) -> ColumnKind {
    let texts = [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::NUMERIC, Type::CHAR];
    match of_scalar(element) {
        Some(kind) => ColumnKind::Array(kind),
        None if texts.contains(element) => ColumnKind::Array(Kind::Text),
        None => ColumnKind::Scalar(Kind::Text),
    }
}

fn of_scalar(found: &Type) -> Option<Kind> {
    Some(match *found {
        Type::BOOL => Kind::Boolean,
        Type::BYTEA => Kind::Bytes,
        Type::DATE => Kind::Date,
        Type::FLOAT4 | Type::FLOAT8 => Kind::Float,
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Kind::Integer,
        Type::JSON | Type::JSONB => Kind::Json,
        Type::TIME => Kind::Time,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Kind::Timestamp,
        Type::UUID => Kind::Uuid,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(schema: &str, name: &str) -> NamedType {
        NamedType { oid: 90_000, schema: schema.into(), name: name.into() }
    }

    #[test]
    fn types_by_their_oid() {
        assert_eq!(of_column(23, None), ColumnKind::Scalar(Kind::Integer));
        assert_eq!(of_column(1700, None), ColumnKind::Scalar(Kind::Text), "numeric");
        assert_eq!(of_column(3802, None), ColumnKind::Scalar(Kind::Json));
        assert_eq!(of_column(1007, None), ColumnKind::Array(Kind::Integer), "int4[]");
        assert_eq!(of_column(1231, None), ColumnKind::Array(Kind::Text), "numeric[]");
        assert_eq!(of_column(1020, None), ColumnKind::Scalar(Kind::Text), "box[], whose elements stand between semicolons");
        assert_eq!(of_column(600_000, None), ColumnKind::Scalar(Kind::Text));
    }

    #[test]
    fn a_domain_is_what_lies_below_it_and_nothing_else_goes_by_name() {
        assert_eq!(of_column(90_000, Some(&named("", "int8"))), ColumnKind::Scalar(Kind::Integer));
        assert_eq!(of_column(90_000, Some(&named("pg_catalog", "uuid"))), ColumnKind::Scalar(Kind::Uuid));
        assert_eq!(of_column(90_000, Some(&named("public", "int8"))), ColumnKind::Scalar(Kind::Text), "a type of that name");
        assert_eq!(of_column(90_000, Some(&named("public", "mood"))), ColumnKind::Scalar(Kind::Text));
    }
}
