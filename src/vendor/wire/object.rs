//! Reads a JSON object into a struct. serde's own derive would also take an array for it, and says in its errors
//! what stands in the document.

/// Declares a struct and its `Deserialize`: from a JSON object and nothing else, unknown keys ignored, absent ones
/// at their default, one that stands twice an error (which of the two would be true?).
macro_rules! object {
    (struct $name:ident<$life:lifetime> { $($key:literal => $field:ident: $kind:ty,)+ }) => {
        struct $name<$life> {
            $($field: $kind,)+
            _document: std::marker::PhantomData<&$life ()>,
        }

        impl<'de> serde::de::Deserialize<'de> for $name<'de> {
            fn deserialize<D: serde::de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name<'de>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        /// Compared where it stands: a key of its own for each would cost more than all the rest.
                        #[expect(non_camel_case_types, reason = "the fields' own names")]
                        enum Key {
                            $($field,)+
                            Unknown,
                        }
                        impl<'de> serde::de::Deserialize<'de> for Key {
                            fn deserialize<D: serde::de::Deserializer<'de>>(key: D) -> Result<Self, D::Error> {
                                key.deserialize_identifier(Keys)
                            }
                        }
                        struct Keys;
                        impl serde::de::Visitor<'_> for Keys {
                            type Value = Key;

                            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                                f.write_str("a key")
                            }

                            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                                Ok(match key {
                                    $($key => Key::$field,)+
                                    _ => Key::Unknown,
                                })
                            }
                        }
                        $(let mut $field = None;)+
                        while let Some(key) = map.next_key()? {
                            match key {
                                $(Key::$field => {
                                    if $field.replace(map.next_value()?).is_some() {
                                        return Err(serde::de::Error::duplicate_field($key));
                                    }
                                })+
                                Key::Unknown => {
                                    map.next_value::<serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        Ok($name { $($field: $field.unwrap_or_default(),)+ _document: std::marker::PhantomData })
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    };
}

pub(super) use object;
