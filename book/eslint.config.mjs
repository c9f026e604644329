// The rules for the JavaScript of the widgets and of the pages; `make lint` runs them.
import js from "@eslint/js";
import globals from "globals";

const RULES = {
  curly: ["error", "multi-line"],
  eqeqeq: "error",
  "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
  "no-var": "error",
  "object-shorthand": "error",
  "prefer-const": "error",
  "prefer-template": "error",
};
// A widget works on a page without a kernel and without a network.
const OFFLINE = ["fetch", "XMLHttpRequest", "WebSocket", "EventSource"];

export default [
  js.configs.recommended,
  { rules: RULES, languageOptions: { globals: globals.browser }, linterOptions: { reportUnusedDisableDirectives: "error" } },
  { files: ["book/assets/js/{course,deck,widgets}.js"], languageOptions: { sourceType: "script" } },
  { files: ["osteo_utils/widgets/*.js", "book/assets/js/widgets.js"], rules: { "no-restricted-globals": ["error", ...OFFLINE] } },
];
