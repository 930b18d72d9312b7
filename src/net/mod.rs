//! What all network code shares: addresses, files of certificates, MQTT in WebSockets, HTTP
//! proxies.

pub mod endpoint;
pub mod proxy;
pub mod tls;
pub mod websocket;
