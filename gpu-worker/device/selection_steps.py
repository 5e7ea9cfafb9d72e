"""Page selection as Python sees it: the two steps of a selecting decode step, and their launches."""

import ctypes

import torch

from harness import Layer, Step, library, pointer, scratch


def selected_pages(plan, pages):
    return plan.per_step if plan.per_step and pages > plan.floor else pages


class SelectingStep:
    """One decode step of a plan that selects. rows as in harness.Step."""

    def __init__(self, plan, rows, heads):
        self.plan, self.heads, self.count = plan, heads, len(rows)
        self.whole = Step(rows)
        self.pitch = max(plan.per_step, plan.floor)
        self.pages_max = max(max(pages for _, _, pages in rows), 1)
        lists = self.count * plan.kv_heads * self.pitch
        self.chosen = torch.full((lists,), -1, dtype=torch.int32, device="cuda")
        at = lambda row: self.chosen.data_ptr() + 4 * row * plan.kv_heads * self.pitch
        self.step = Step(
            [
                (spans, at(i), selected_pages(plan, pages))
                for i, (spans, _, pages) in enumerate(rows)
            ]
        )
        self.scratch = torch.zeros(
            library.harness_selection_scratch(self.count, plan.kv_heads, self.pages_max),
            dtype=torch.uint8,
            device="cuda",
        )
        self.work = scratch(self.count, plan.kv_heads, plan.head_dim)

    def select(self, layer: Layer, arena, q, overlap=1):
        code = library.harness_selection(
            layer.handle,
            pointer(self.whole.rows),
            self.plan.channels,
            ctypes.c_void_p(arena),
            pointer(q),
            pointer(self.chosen),
            pointer(self.scratch),
            self.pitch,
            self.pages_max,
            self.count,
            self.heads,
            overlap,
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
        if code != 0:
            raise RuntimeError(f"selection failed: {code}")

    def attend(self, layer: Layer, arena, q, out, zone_layer, zone_index=None):
        layer.launch(
            self.step,
            arena,
            q,
            out,
            self.work,
            zone_layer,
            zone_index,
            table_pitch=self.pitch,
        )

    def lists(self):
        """(rows, kv_heads, pitch) block numbers."""
        return self.chosen.view(self.count, self.plan.kv_heads, self.pitch).cpu()
