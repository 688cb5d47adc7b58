"""What the engine `echo` offers. Nothing heavy is imported until the engine is used."""

from cotejar.engines.spec import EngineSpec

SPEC = EngineSpec(name="echo", target="cotejar_echo.engine:EchoEngine", numerics=("f32",))
