"""Structure without labels: where a patch goes, and what moves with it, read off the exact predictor of a small world.

The predictor answers any question about two frames by Bayes' rule. To trace a patch, its code is flipped, and the
answers about the next frame are compared. To find its object, it is poked in eight directions. Then a quantizer learns
codes for rendered frames, each of which depends on its own patch only.

    python examples/psi_patches.py
"""

import torch
from probkernels import sequence as sq


def show(title: str, grid: torch.Tensor) -> None:
    print(title)
    print("\n".join("  " + " ".join(f"{x:4.1f}" if x else "   ." for x in row) for row in grid.tolist()))


def main() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    world = sq.PatchWorld(6, "b")
    psi, scene = sq.ExactPsi(world, eps=1e-6), world.sample(1, generator)
    known, codes = scene.known("rgb0"), scene.values["rgb0"]
    tracer = scene.owner0[0].argmax()[None]
    show("first frame", codes.view(6, 6))
    show("second frame", scene.values["rgb1"].view(6, 6))

    flipped = sq.replaced(known, "rgb0", tracer, (codes[:, tracer] + 3) % 8 + 1)
    masks = torch.rand(4, 36, generator=generator).argsort(1)[:, :9]  # four times nine revealed patches
    trace = sq.kl_trace(psi, known, flipped, "rgb1", frame=scene.values["rgb1"], masks=masks)
    show("KL divergence, where a flipped code changes the second frame", trace.kl.view(6, 6))
    row, column = scene.motion[0, 0].tolist()
    print(f"patch {int(tracer)} goes to {int(trace.pointer)}; the truth is {int(tracer) + 6 * row + column}")

    segment = sq.poke_segment(psi, known, int(tracer), world.vectors)
    show("dot product of pokes and motions", segment.dot.view(6, 6))
    print(f"above {segment.threshold.item():.2f} lie {segment.mask.sum()} patches, all of the object: "
          f"{torch.equal(segment.mask, scene.owner0 == 0)}")  # fmt: skip

    pixels = sq.PixelWorld()
    quantizer = sq.PatchQuantizer(8, width=32, depth=1)
    optimizer = torch.optim.Adam(quantizer.parameters(), 3e-3)
    for step in range(60):
        loss = quantizer(pixels.sample(16, generator).frame0)
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        if step in (0, 59):
            print(f"quantizer, step {step + 1}: squared error {loss.mse.item():.4f}")
    frame = pixels.sample(1, generator).frame0
    changed = frame.clone()
    changed[0, :, 9, 14] = 1 - changed[0, :, 9, 14]  # a pixel of patch (2, 3)
    differ = (quantizer.encode(frame) != quantizer.encode(changed))[0].nonzero().tolist()
    print(f"codes that a pixel of patch (2, 3) can change: {differ or 'none this time'}")


if __name__ == "__main__":
    main()
