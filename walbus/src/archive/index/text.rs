//! How values stand in the JSON of an index: positions, systems and hashes as text, since not every reader of JSON has whole numbers of
//! 64 bits; times in microseconds since 1970.

/// What is printed and read as text.
pub(super) mod display {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The same, where there may be none.
pub(super) mod option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(
        value: &Option<impl std::fmt::Display>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(deserializer)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A timeline's number.
pub(super) mod timeline {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::ident::Timeline;

    pub(in super::super) fn serialize<S: Serializer>(value: &Timeline, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(value.get())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timeline, D::Error> {
        Timeline::new(u32::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no timeline has the number 0"))
    }
}

/// A moment.
pub(super) mod one_time {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ident::PgTime;

    pub(in super::super) fn serialize<S: Serializer>(value: &PgTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(value.to_unix_micros())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PgTime, D::Error> {
        i64::deserialize(deserializer).map(PgTime::from_unix_micros)
    }
}

/// The same, where there may be none.
pub(super) mod time {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ident::PgTime;

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<PgTime>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(PgTime::to_unix_micros).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PgTime>, D::Error> {
        Ok(Option::<i64>::deserialize(deserializer)?.map(PgTime::from_unix_micros))
    }
}

/// Bytes in base64.
pub(super) mod bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(value))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
