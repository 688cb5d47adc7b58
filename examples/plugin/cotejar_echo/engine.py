"""The smallest engine: it records every site of a forward pass that another program ran."""

from cotejar.engines.oracle import OracleEngine
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, EngineInfo, TraceRecorder


class EchoEngine:
    """Stands where your engine goes: `_run` is to be your own forward pass."""

    def __init__(self, model, *, numerics="f32"):
        self._model = model
        self.info = EngineInfo(name="echo", build="cotejar-echo 1.0", numerics=numerics)

    def trace(self, token_ids, *, capture, prompt=None):
        """Run the tokens from position 0 in one pass, and record every site."""
        config = self._model.config
        check_token_ids(
            token_ids, vocab_size=config.vocab_size, context_length=config.context_length
        )
        recorder = TraceRecorder(capture)
        for site, values_TW in self._run(token_ids):
            recorder.record(site.slot, values_TW, site.layer)
        return finish_trace(
            recorder,
            engine=self.info,
            model=self._model,
            token_ids=token_ids,
            prompt=prompt,
        )

    def _run(self, token_ids):
        """(site, tokens x width) in any order; here the oracle's, rounded to float32."""
        every = Capture(array_slots=EVERY_ARRAY)
        exact = OracleEngine(self._model).trace(token_ids, capture=every)
        for name, record in exact.sites.items():
            yield record.site, exact.arrays[name].astype("float32")
