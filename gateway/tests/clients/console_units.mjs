import test from "node:test";
test("none yet", () => {});
