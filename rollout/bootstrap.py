"""What an Envoy of the fleet starts with: its identity, the way to this control plane, a view of its stats."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.errors import InvalidSpec

V3 = {"resource_api_version": "V3"}
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
UPSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ADMIN_METADATA = "rollout.admin"  # node.metadata: HOST:PORT at which the control plane reads this Envoy's stats


@dataclass(frozen=True, slots=True)
class XdsTls:
    """TLS to the control plane, by PEM files on the proxy's host.

    `ca` is the authority of the control plane's certificate, `cert` and `key` are the proxy's own, None without mutual
    TLS. `name` is the one that the control plane's certificate must have: a SPIFFE ID, an address or a DNS name; None:
    the host by which it is called.
    """

    ca: str
    cert: str | None = None
    key: str | None = None
    name: str | None = None


def xds_tls(ca: str | None, cert: str | None, key: str | None, name: str | None) -> XdsTls | None:
    """Return how to speak TLS, None for plain text. Raises InvalidSpec for half of it."""
    if (cert is None) != (key is None):
        raise InvalidSpec("--xds-cert and --xds-key go together: give the proxy's certificate and its key, or neither")
    if ca is None:
        if cert or name:
            raise InvalidSpec("--xds-ca is missing: without the control plane's authority any server could be it")
        return None
    return XdsTls(ca, cert, key, name)


@dataclass(frozen=True, slots=True)
class Proxy:
    """One Envoy: addresses are HOST:PORT. `admin` is where it listens for admin requests; keep it on loopback.

    `stats` is a read-only listener for the control plane on another host; None: it reads `admin` itself.
    """

    node_id: str
    cluster: str
    region: str
    zone: str
    xds: str
    admin: str
    stats: str | None = None
    delta: bool = False
    tls: XdsTls | None = None


def bootstrap(proxy: Proxy) -> dict[str, Any]:
    """Return the bootstrap in Envoy's own words.

    Raises InvalidSpec for an address that is none, or stats that the control plane could not reach.
    """
    if (
        proxy.stats is None
        and is_loopback(split_address(proxy.admin)[0])
        and not is_loopback(split_address(proxy.xds)[0])
    ):
        what = f"the control plane at {proxy.xds} cannot read stats from {proxy.admin}, which is loopback"
        raise InvalidSpec(f"{what}; give --stats HOST:PORT, a read-only view of them on an address that it reaches")
    return {
        "node": {
            "id": proxy.node_id,
            "cluster": proxy.cluster,
            "locality": {key: value for key, value in (("region", proxy.region), ("zone", proxy.zone)) if value},
            **_metadata(proxy.stats or proxy.admin),
        },
        "admin": {"address": _address(proxy.admin), "ignore_global_conn_limit": True},
        "stats_flush_on_admin": True,  # histograms are merged when they are asked for
        "stats_config": {
            "stats_matcher": {"exclusion_list": {"patterns": [_excluded(each) for each in _UNREAD_STATS]}}
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if proxy.delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds_cluster", "retry_policy": _RETRY}}],
                "rate_limit_settings": {"max_tokens": 100, "fill_rate": 10},
            },
            # Without a limit /ready stays 503 until the control plane has answered.
            "cds_config": {**V3, "initial_fetch_timeout": "0s", "ads": {}},
            "lds_config": {**V3, "initial_fetch_timeout": "0s", "ads": {}},
        },
        "static_resources": {
            "clusters": [_xds_cluster(proxy.xds, proxy.tls), *([_admin_cluster(proxy.admin)] if proxy.stats else [])],
            **({"listeners": [_stats_listener(proxy.stats)]} if proxy.stats else {}),
        },
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "overload_manager": _OVERLOAD,
    }


_UNREAD_STATS = (
    r"^cluster\..*\.(internal|external|zone)\..*",
    r"^cluster\..*\.(ssl|http2|update_duration|circuit_breakers)\b.*",
)
_RETRY = {"retry_back_off": {"base_interval": "0.25s", "max_interval": "3s"}}
_MONITORS = "type.googleapis.com/envoy.extensions.resource_monitors"
_OVERLOAD: Mapping[str, Any] = {
    "refresh_interval": "0.25s",
    "resource_monitors": [
        {
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": 50000,
            },
        }
    ],
}


def _metadata(address: str) -> dict[str, Any]:
    """Say where the stats are; for a wildcard address the server takes the peer's, and --envoy-admin-port."""
    return {} if split_address(address)[0] in ("0.0.0.0", "::") else {"metadata": {ADMIN_METADATA: address}}  # noqa: S104 - compared only


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _excluded(pattern: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": pattern}}


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [V6]:PORT. Raises InvalidSpec."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidSpec(f"'{address}' is no address; write HOST:PORT")
    return host.strip("[]"), int(port)


def _address(address: str) -> dict[str, Any]:
    host, port = split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, address: str, kind: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(address)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": kind, "connect_timeout": "1s", "load_assignment": assignment}


def _admin_cluster(address: str) -> dict[str, Any]:
    return _cluster("admin_local", address, "STATIC")


def _xds_cluster(address: str, tls: XdsTls | None) -> dict[str, Any]:
    keepalive = {"connection_keepalive": {"interval": "10s", "timeout": "3s"}}  # notices a control plane that hangs
    options = {
        "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
        "explicit_http_config": {"http2_protocol_options": keepalive},
    }
    return {
        **_cluster("xds_cluster", address, "STRICT_DNS"),
        "typed_extension_protocol_options": {HTTP_OPTIONS: options},
        **({} if tls is None else {"transport_socket": _transport_socket(tls, split_address(address)[0])}),
    }


def _transport_socket(tls: XdsTls, host: str) -> dict[str, Any]:
    """Trust the control plane by its authority and by its name: the authority may have signed the proxies too."""
    name = tls.name or host
    validation = {
        "trusted_ca": {"filename": tls.ca},
        "match_typed_subject_alt_names": [{"san_type": _name_kind(name), "matcher": {"exact": name}}],
    }
    own = [{"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}] if tls.cert else []
    context = {
        "@type": f"type.googleapis.com/{UPSTREAM_TLS}",
        **next(({"sni": each} for each in (name, host) if _name_kind(each) == "DNS"), {}),
        "common_tls_context": {
            "alpn_protocols": ["h2"],  # gRPC closes a connection that did not agree on it
            "validation_context": validation,
            **({"tls_certificates": own} if own else {}),
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _name_kind(name: str) -> str:
    if "://" in name:
        return "URI"
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP_ADDRESS"


def _stats_listener(address: str) -> dict[str, Any]:
    """Show stats, and nothing else of admin, to the control plane."""
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    manager = {
        "@type": f"type.googleapis.com/{CONNECTION_MANAGER}",
        "stat_prefix": "stats_read_only",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "admin",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"path": path, "headers": get}, "route": {"cluster": "admin_local", "timeout": "5s"}}
                        for path in ("/stats", "/stats/prometheus", "/clusters", "/server_info", "/ready")
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "stats_read_only",
        "ignore_global_conn_limit": True,
        "address": _address(address),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }
