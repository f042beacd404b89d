"""Every peer trains the same problem as eager PyTorch, or says why it cannot."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.encoder import Projector
from pocketfed.core.errors import MissingPackageError, PeerError
from pocketfed.core.objectives import nt_xent
from pocketfed.simulator.bench.peers import PEERS, EagerTrainer, Peer, Workload, check_losses
from pocketfed.simulator.bench.peers.forward_graph import attributes_of, forward_graph, interpret

# What peers warn of when they are imported is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


class Tiny(nn.Module):
    """One of each layer that our networks have, then NT-Xent: views [2b, 3, h, w] -> loss []."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.GroupNorm(4, 8))
        self.square = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.across = nn.Conv2d(4, 4, (1, 5), padding=(0, 2), groups=4)
        self.widen = nn.Conv2d(8, 16, 1)
        self.narrow = nn.Conv2d(16, 8, 2, 2)
        self.projector = Projector(8, 12, 6)

    def forward(self, views: Tensor) -> Tensor:
        x = functional.relu(self.stem(views))
        first, second = torch.split(x, [4, 4], 1)
        x = x + torch.cat([self.square(first), self.across(second)], 1)
        x = self.narrow(functional.gelu(self.widen(x), approximate="tanh"))
        n = len(views)
        first, second = self.projector(torch.cat([x.mean((2, 3))]), torch.ones(n)).chunk(2)
        return nt_xent(first, second, torch.tensor(0.5), torch.ones(n // 2))


class Calls(nn.Module):
    """A weight, a function, and the mean of squares."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.layer, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, views: Tensor) -> Tensor:
        y: Tensor = self.function(self.layer(views))
        return (y * y).mean()


class Odd(nn.Module):
    """A function that no peer knows."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.bessel_j0(x)
        return y


def workload(module: nn.Module, side: int = 8) -> Workload:
    views = torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Workload(module, views, learning_rate=0.02, momentum=0.9, weight_decay=1e-2, threads=1)


def seeded(build: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def installed(name: str) -> Peer:
    peer = PEERS[name]
    if not peer.available():
        pytest.skip(peer.requirement)
    return peer


@pytest.mark.parametrize("name", PEERS)
def test_trains_the_same_problem_as_eager_pytorch(name: str) -> None:
    problem = workload(seeded(Tiny))
    before = [weight.detach().clone() for weight in problem.module.parameters()]
    check_losses(installed(name).build(problem), problem)
    for weight, kept in zip(problem.module.parameters(), before, strict=True):
        assert torch.equal(weight, kept)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "stock"])
def test_an_unknown_operator_is_an_error_that_names_it(name: str) -> None:
    problem = workload(Calls(Odd()))
    with pytest.raises(PeerError, match=r"no translation of aten\.special_bessel_j0"):
        installed(name).build(problem).step()


def test_a_missing_package_is_an_error_with_the_install_line() -> None:
    peer = dataclasses.replace(
        PEERS["stock"], packages=("no_such_package.at_all",), requirement="pip install x"
    )
    assert not peer.available()
    with pytest.raises(MissingPackageError, match="'stock' is not installed; install it: pip install x"):
        peer.build(workload(seeded(Tiny)))


def test_another_problem_is_found_out() -> None:
    problem = workload(seeded(Tiny))
    without_decay = dataclasses.replace(problem, momentum=0.5)
    check_losses(EagerTrainer(problem), problem)
    check_losses(EagerTrainer(problem, nudged=True), problem)
    with pytest.raises(PeerError, match="it trains another problem"):
        check_losses(EagerTrainer(without_decay), problem)


@pytest.mark.parametrize("name", ["stock", "onnxruntime"])
def test_a_network_that_changes_its_buffers_is_refused(name: str) -> None:
    with pytest.raises(PeerError, match="running_mean"):
        installed(name).build(workload(Calls(nn.BatchNorm2d(4))))


def test_the_graph_computes_the_loss_and_holds_few_operators() -> None:
    problem = workload(seeded(Tiny))
    graph = forward_graph(problem.module, problem.views)
    operators = {node.target: node.target for node in graph.graph.nodes if node.op == "call_function"}
    names = {str(operator) for operator in operators}
    assert not names & {
        "aten.group_norm.default",
        "aten.chunk.default",
        "aten.eye.default",
        "aten.rsqrt.default",
    }
    attributes = attributes_of(graph)
    loss = interpret(graph, problem.views, attributes, operators, "PyTorch")
    torch.testing.assert_close(loss, problem.module(problem.views))
    assert {name for name, _ in problem.module.named_parameters()} <= set(attributes)
