//! What of a package a driver depends on: its interfaces with the types and signatures in them, as texts that are equal when
//! they mean the same to a component.

use std::collections::BTreeMap;

use wit_parser::{Function, Handle, PackageId, Resolve, Type, TypeDef, TypeDefKind, TypeOwner};

use crate::tree::track;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Whether drivers import the package. What they export is another matter: a driver without a function that the world
    /// has could not be instantiated.
    pub(crate) imported: bool,
    /// By name.
    pub(crate) interfaces: BTreeMap<String, Interface>,
}

/// An interface of a package.
#[derive(Debug, Default)]
pub(crate) struct Interface {
    /// `record { code: string }`, by the type's name.
    pub(crate) types: BTreeMap<String, String>,
    /// `func(level: level, text: string)`, by the function's name.
    pub(crate) functions: BTreeMap<String, String>,
}

/// The package that the host offers. All others are for drivers to export.
const IMPORTED: (&str, &str) = ("hutch", "host");

impl Shape {
    /// The shape of a package.
    pub(crate) fn of(resolve: &Resolve, package: PackageId) -> Self {
        let package = &resolve.packages[package];
        let interfaces = package.interfaces.iter().map(|(name, id)| {
            let interface = &resolve.interfaces[*id];
            let types = interface.types.iter().map(|(name, id)| {
                let definition = &resolve.types[*id];
                (name.clone(), kind(resolve, definition))
            });
            let functions = interface
                .functions
                .iter()
                .map(|(name, found)| (name.clone(), signature(resolve, found)));
            let shape = Interface {
                types: types.collect(),
                functions: functions.collect(),
            };
            (name.clone(), shape)
        });
        Self {
            imported: (package.name.namespace.as_str(), package.name.name.as_str()) == IMPORTED,
            interfaces: interfaces.collect(),
        }
    }
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params = function
        .params
        .iter()
        .map(|param| format!("{}: {}", param.name, name(resolve, &param.ty)));
    let params = params.collect::<Vec<_>>().join(", ");
    match &function.result {
        Some(result) => format!("func({params}) -> {}", name(resolve, result)),
        None => format!("func({params})"),
    }
}

/// How a type is written where it is used.
fn name(resolve: &Resolve, found: &Type) -> String {
    let Type::Id(id) = found else {
        return format!("{found:?}").to_lowercase();
    };
    let definition = &resolve.types[*id];
    match &definition.name {
        Some(name) => format!("{}{name}", place(resolve, definition)),
        None => kind(resolve, definition),
    }
}

/// `hutch:host@0.1/types.`: with the version's track, since a type of another version is another type.
fn place(resolve: &Resolve, definition: &TypeDef) -> String {
    let TypeOwner::Interface(id) = definition.owner else {
        return String::new();
    };
    let interface = &resolve.interfaces[id];
    let own = interface.name.as_deref().unwrap_or_default();
    match interface.package.map(|id| &resolve.packages[id].name) {
        Some(package) => {
            let version = package.version.as_ref().map(|version| track(&version.to_string()));
            format!(
                "{}:{}@{}/{own}.",
                package.namespace,
                package.name,
                version.unwrap_or_default()
            )
        }
        None => format!("{own}."),
    }
}

/// What a type is.
fn kind(resolve: &Resolve, definition: &TypeDef) -> String {
    let of = |found: &Type| name(resolve, found);
    let maybe = |found: &Option<Type>| found.as_ref().map_or_else(|| "_".to_owned(), of);
    let listed = |word: &str, members: Vec<String>| format!("{word} {{ {} }}", members.join(", "));
    match &definition.kind {
        TypeDefKind::Record(record) => {
            let fields = record
                .fields
                .iter()
                .map(|field| format!("{}: {}", field.name, of(&field.ty)));
            listed("record", fields.collect())
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant
                .cases
                .iter()
                .map(|case| format!("{}({})", case.name, maybe(&case.ty)));
            listed("variant", cases.collect())
        }
        TypeDefKind::Enum(found) => listed("enum", found.cases.iter().map(|case| case.name.clone()).collect()),
        TypeDefKind::Flags(flags) => listed("flags", flags.flags.iter().map(|flag| flag.name.clone()).collect()),
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", tuple.types.iter().map(of).collect::<Vec<_>>().join(", ")),
        TypeDefKind::Option(found) => format!("option<{}>", of(found)),
        TypeDefKind::Result(found) => format!("result<{}, {}>", maybe(&found.ok), maybe(&found.err)),
        TypeDefKind::List(found) => format!("list<{}>", of(found)),
        TypeDefKind::Map(key, value) => format!("map<{}, {}>", of(key), of(value)),
        TypeDefKind::FixedLengthList(found, length) => format!("list<{}, {length}>", of(found)),
        TypeDefKind::Future(found) => format!("future<{}>", maybe(found)),
        TypeDefKind::Stream(found) => format!("stream<{}>", maybe(found)),
        TypeDefKind::Handle(Handle::Own(id)) => format!("own<{}>", of(&Type::Id(*id))),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", of(&Type::Id(*id))),
        TypeDefKind::Resource => "resource".to_owned(),
        TypeDefKind::Type(found) => of(found),
        TypeDefKind::Unknown => "unknown".to_owned(),
    }
}
