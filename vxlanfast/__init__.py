"""vxlanfast: VXLAN, packet by packet, in user space: as correct as the kernel, as fast as ``cp``.

>>> import vxlanfast as vf
>>> wire = vf.encap(bytes(60), vni=42, src="192.0.2.1", dst="192.0.2.2")
>>> vf.decap(wire).vni
42

Names are imported when they are first used, so that ``import vxlanfast`` costs nearly nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

#: As typing has it, for type checkers; importing typing would cost more than all the rest here.
TYPE_CHECKING = False

_HOME = {
    "Capture": "capture", "CaptureWriter": "capture", "open_capture": "capture",
    "CaptureError": "errors", "DeviceError": "errors", "FilterError": "errors", "MissingLibraryError": "errors",
    "NotVxlan": "errors",
    "OutputError": "errors", "SpecError": "errors", "TableFullError": "errors", "VxlanFastError": "errors",
    "Decapsulated": "frame", "Outer": "frame", "decap": "frame", "decap_batch": "frame", "encap": "frame",
    "encap_batch": "frame", "encap_with": "frame",
    "decap_file": "files", "encap_file": "files", "restore_file": "files",
    "split_file": "split", "survey_file": "survey", "Survey": "survey",
    "PacketBatch": "_ext.batch", "Rule": "_ext.verdict", "Verdict": "_ext.verdict",
    "Stats": "stats", "TunnelSpec": "spec",
    "Dataplane": "dataplane", "Decision": "explain", "replay_file": "replay", "Replayed": "replay",
    "Drift": "plane_stats", "MeshCounts": "plane_stats", "NetworkTraffic": "plane_stats", "PlaneStats": "plane_stats",
    "Traffic": "plane_stats", "Translation": "mesh",
    "EndpointSpec": "network_spec", "NetworkSpec": "network_spec", "NodeSpec": "node_spec", "PeerSpec": "network_spec",
    "RouteSpec": "network_spec", "load_spec": "node_toml", "parse_spec": "node_toml",
    "Candidate": "service_spec", "Flow": "service_spec",
    "MeshSpec": "service_spec", "PublishSpec": "service_spec", "ServerSpec": "service_spec",
    "ServiceSpec": "service_spec",
    "VirtualSpec": "service_spec", "Departure": "timed", "arrivals": "timed", "replay_timed": "timed",
    "networks_from_docker": "importers", "spec_from_docker": "importers", "spec_from_host": "importers",
    "to_toml": "importers",
    "services_from_ipvsadm": "ipvsadm_rules", "to_ipvsadm": "ipvsadm_rules",
    "FromKernel": "from_kernel", "LiveNode": "live", "LiveSpec": "live_spec", "TapSpec": "live_spec",
    "GatewayLeg": "hops", "Hop": "hops", "Way": "hops", "hops_of": "hops",
}  # fmt: skip

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from vxlanfast._ext.batch import PacketBatch as PacketBatch
    from vxlanfast._ext.verdict import Rule as Rule
    from vxlanfast._ext.verdict import Verdict as Verdict
    from vxlanfast.capture import Capture as Capture
    from vxlanfast.capture import CaptureWriter as CaptureWriter
    from vxlanfast.capture import open_capture as open_capture
    from vxlanfast.dataplane import Dataplane as Dataplane
    from vxlanfast.errors import CaptureError as CaptureError
    from vxlanfast.errors import DeviceError as DeviceError
    from vxlanfast.errors import FilterError as FilterError
    from vxlanfast.errors import MissingLibraryError as MissingLibraryError
    from vxlanfast.errors import NotVxlan as NotVxlan
    from vxlanfast.errors import OutputError as OutputError
    from vxlanfast.errors import SpecError as SpecError
    from vxlanfast.errors import TableFullError as TableFullError
    from vxlanfast.errors import VxlanFastError as VxlanFastError
    from vxlanfast.explain import Decision as Decision
    from vxlanfast.files import decap_file as decap_file
    from vxlanfast.files import encap_file as encap_file
    from vxlanfast.files import restore_file as restore_file
    from vxlanfast.frame import Decapsulated as Decapsulated
    from vxlanfast.frame import Outer as Outer
    from vxlanfast.frame import decap as decap
    from vxlanfast.frame import decap_batch as decap_batch
    from vxlanfast.frame import encap as encap
    from vxlanfast.frame import encap_batch as encap_batch
    from vxlanfast.frame import encap_with as encap_with
    from vxlanfast.from_kernel import FromKernel as FromKernel
    from vxlanfast.hops import GatewayLeg as GatewayLeg
    from vxlanfast.hops import Hop as Hop
    from vxlanfast.hops import Way as Way
    from vxlanfast.hops import hops_of as hops_of
    from vxlanfast.importers import networks_from_docker as networks_from_docker
    from vxlanfast.importers import spec_from_docker as spec_from_docker
    from vxlanfast.importers import spec_from_host as spec_from_host
    from vxlanfast.importers import to_toml as to_toml
    from vxlanfast.ipvsadm_rules import services_from_ipvsadm as services_from_ipvsadm
    from vxlanfast.ipvsadm_rules import to_ipvsadm as to_ipvsadm
    from vxlanfast.live import LiveNode as LiveNode
    from vxlanfast.live_spec import LiveSpec as LiveSpec
    from vxlanfast.live_spec import TapSpec as TapSpec
    from vxlanfast.mesh import Translation as Translation
    from vxlanfast.network_spec import EndpointSpec as EndpointSpec
    from vxlanfast.network_spec import NetworkSpec as NetworkSpec
    from vxlanfast.network_spec import PeerSpec as PeerSpec
    from vxlanfast.network_spec import RouteSpec as RouteSpec
    from vxlanfast.node_spec import NodeSpec as NodeSpec
    from vxlanfast.node_toml import load_spec as load_spec
    from vxlanfast.node_toml import parse_spec as parse_spec
    from vxlanfast.plane_stats import Drift as Drift
    from vxlanfast.plane_stats import MeshCounts as MeshCounts
    from vxlanfast.plane_stats import NetworkTraffic as NetworkTraffic
    from vxlanfast.plane_stats import PlaneStats as PlaneStats
    from vxlanfast.plane_stats import Traffic as Traffic
    from vxlanfast.replay import Replayed as Replayed
    from vxlanfast.replay import replay_file as replay_file
    from vxlanfast.service_spec import Candidate as Candidate
    from vxlanfast.service_spec import Flow as Flow
    from vxlanfast.service_spec import MeshSpec as MeshSpec
    from vxlanfast.service_spec import PublishSpec as PublishSpec
    from vxlanfast.service_spec import ServerSpec as ServerSpec
    from vxlanfast.service_spec import ServiceSpec as ServiceSpec
    from vxlanfast.service_spec import VirtualSpec as VirtualSpec
    from vxlanfast.spec import TunnelSpec as TunnelSpec
    from vxlanfast.split import split_file as split_file
    from vxlanfast.stats import Stats as Stats
    from vxlanfast.survey import Survey as Survey
    from vxlanfast.survey import survey_file as survey_file
    from vxlanfast.timed import Departure as Departure
    from vxlanfast.timed import arrivals as arrivals
    from vxlanfast.timed import replay_timed as replay_timed


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'vxlanfast' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"vxlanfast.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
