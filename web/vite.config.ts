import preact from "@preact/preset-vite";
import { defineConfig } from "vite";

// The built files are committed, so that a clone without Node.js and a wheel have them. URLs are relative: the page may
// be below any path of a proxy.
export default defineConfig({
  base: "./",
  plugins: [preact({ devToolsEnabled: false })],
  build: {
    outDir: "../src/pylvs/web/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the page's policy allows no inline script or style
    modulePreload: false,
    sourcemap: false,
    target: "es2022",
  },
});
