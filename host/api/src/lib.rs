//! The wire types of the REST API.
