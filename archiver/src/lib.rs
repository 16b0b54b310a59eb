//! WAL in object storage, and recovery to any point of it.
