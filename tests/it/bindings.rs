//! The protocol's definitions: `proto/` agrees with the facts table, and
//! `src/ctrader/wire/generated.rs` is what prost makes of `proto/`.

#[path = "../vendor/messages.rs"]
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

const FILES: [&str; 4] = [
    "OpenApiCommonModelMessages.proto",
    "OpenApiCommonMessages.proto",
    "OpenApiModelMessages.proto",
    "OpenApiMessages.proto",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn descriptors() -> FileDescriptorSet {
    protox::compile(FILES, [root().join("proto")]).expect("proto/ compiles")
}

/// One line of the table, as far as it describes a field or an enum value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    kind: &'static str,
    owner: String,
    member: String,
    number: i32,
    label: String,
    ty: String,
    default: String,
    deprecated: bool,
    file: String,
}

fn table() -> Vec<Fact> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/open_api_fields.tsv"))
        .expect("the table is there");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split('\t').collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|h| *h == name)
            .expect("a known column")
    };
    let (kind, owner, member, number) = (
        column("kind"),
        column("name"),
        column("member"),
        column("number"),
    );
    let (label, ty, default) = (column("label"), column("type"), column("default"));
    let (deprecated, status, file) = (column("deprecated"), column("status"), column("file"));
    let mut facts: Vec<Fact> = lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|row| row[status] == "current")
        .map(|row| Fact {
            kind: if row[kind] == "enum" {
                "enum"
            } else {
                "message"
            },
            owner: row[owner].to_owned(),
            member: row[member].to_owned(),
            number: row[number].parse().expect("a number"),
            label: row[label].to_owned(),
            ty: row[ty].to_owned(),
            default: row[default].to_owned(),
            deprecated: row[deprecated] == "yes",
            file: row[file].to_owned(),
        })
        .collect();
    facts.sort();
    facts
}

fn type_name(ty: Type, named: &str) -> String {
    match ty {
        Type::Message | Type::Enum => named.trim_start_matches('.').to_owned(),
        Type::Double => "double".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Uint32 => "uint32".to_owned(),
        Type::Uint64 => "uint64".to_owned(),
        Type::Float
        | Type::Fixed64
        | Type::Fixed32
        | Type::Group
        | Type::Sfixed32
        | Type::Sfixed64
        | Type::Sint32
        | Type::Sint64 => panic!("{} is not a type the Open API uses", ty.as_str_name()),
    }
}

fn message_facts(message: &DescriptorProto, file: &str) -> Vec<Fact> {
    message
        .field
        .iter()
        .map(|field| Fact {
            kind: "message",
            owner: message.name().to_owned(),
            member: field.name().to_owned(),
            number: field.number(),
            label: match field.label() {
                Label::Optional => "optional",
                Label::Required => "required",
                Label::Repeated => "repeated",
            }
            .to_owned(),
            ty: type_name(field.r#type(), field.type_name()),
            default: field.default_value().to_owned(),
            deprecated: field
                .options
                .as_ref()
                .is_some_and(prost_types::FieldOptions::deprecated),
            file: file.to_owned(),
        })
        .collect()
}

fn enum_facts(item: &EnumDescriptorProto, file: &str) -> Vec<Fact> {
    item.value
        .iter()
        .map(|value| Fact {
            kind: "enum",
            owner: item.name().to_owned(),
            member: value.name().to_owned(),
            number: value.number(),
            label: String::new(),
            ty: String::new(),
            default: String::new(),
            deprecated: value
                .options
                .as_ref()
                .is_some_and(prost_types::EnumValueOptions::deprecated),
            file: file.to_owned(),
        })
        .collect()
}

#[test]
fn every_message_and_enum_is_the_tables_to_the_number() {
    let mut compiled = Vec::new();
    for file in &descriptors().file {
        assert_eq!(file.package(), "", "the wire has no package");
        for message in &file.message_type {
            assert!(message.nested_type.is_empty() && message.enum_type.is_empty());
            compiled.extend(message_facts(message, file.name()));
        }
        for item in &file.enum_type {
            compiled.extend(enum_facts(item, file.name()));
        }
    }
    compiled.sort();
    let table = table();
    let by_name = |facts: &[Fact]| -> BTreeMap<String, Fact> {
        facts
            .iter()
            .map(|f| (format!("{}.{}", f.owner, f.member), f.clone()))
            .collect()
    };
    let (ours, theirs) = (by_name(&compiled), by_name(&table));
    for (name, fact) in &theirs {
        assert_eq!(ours.get(name), Some(fact), "{name}");
    }
    assert_eq!(ours.len(), theirs.len(), "nothing of our own invention");
    assert_eq!(compiled, table);
    // The counts that upstream's schema has: a truncated table can't pass.
    assert_eq!(compiled.iter().filter(|f| f.kind == "message").count(), 574);
    assert_eq!(compiled.iter().filter(|f| f.kind == "enum").count(), 284);
}

#[test]
fn the_checked_in_bindings_are_what_prost_makes_of_the_proto_files() {
    let out = tempfile::tempdir().expect("a folder");
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes([".ProtoMessage.payload"])
        .compile_fds(descriptors())
        .expect("prost generates");
    let fresh = std::fs::read_to_string(out.path().join("_.rs")).expect("one file");
    let path = root().join("src/ctrader/wire/generated.rs");
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&path, &fresh).expect("the bindings can be written");
    }
    let checked_in = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
    assert!(
        fresh == checked_in,
        "proto/ changed: run UPDATE_BINDINGS=1 cargo test --test it bindings"
    );
}

#[test]
fn the_table_for_the_vendors_classes_has_every_message_by_its_own_name() {
    let descriptors = descriptors();
    let described: Vec<&str> = descriptors
        .file
        .iter()
        .flat_map(|file| &file.message_type)
        .map(DescriptorProto::name)
        .collect();
    let known: Vec<&str> = messages::MESSAGES.iter().map(|kind| kind.name).collect();
    let sorted = |names: &[&str]| {
        names
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(sorted(&known), sorted(&described));
    assert_eq!(known.len(), described.len(), "each of them once");
    for kind in messages::MESSAGES {
        // prost writes ProtoOATrader as ProtoOaTrader, and no two names differ by case alone.
        let path = (kind.type_name)();
        let own = path.rsplit("::").next().expect("a name");
        assert!(own.eq_ignore_ascii_case(kind.name), "{}: {path}", kind.name);
        assert!((kind.recode)(b"").is_ok(), "{} of nothing", kind.name);
    }
}
