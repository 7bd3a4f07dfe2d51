//! HTTP, websockets and events.
