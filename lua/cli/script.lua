--- sallyport lua
local db = require "cli.db"
local report = require "cli.report"

local SCRIPT_MAX = 4 << 20

return {
  { words = "lua", args = "[--store] FILE [ARG …]", min = 1, raw = true, homeless = true,
    summary = "run a script with the runtime's modules",
    options = { { name = "store", help = "open the store first" } },
    help = [[
Runs a Lua script in this process, with the runtime's modules (require "http", "addr", "records", …): what the
unit tests use. Nothing is sandboxed: it is the operator's own script. Without --store no store is open. An integer
that it returns is the exit code.

example:
  sallyport lua --store count.lua
    -- count.lua:  print(#require("store").each("credential", ""))
]],
    run = function(args, opt, ctx)
      local file = args[1]
      local text, why = ctx.host.read_file(file, SCRIPT_MAX)
      if not text then report.fail(("cannot read %s: %s"):format(report.clean(file), why)) end
      if opt.store then
        if not ctx.home then report.usage("HOME is not set, so the data directory must be named", "--home DIR") end
        db.open(ctx)
      end
      text = text:gsub("^#[^\n]*", "")
      local script, bad = load(text, "@" .. file, "t")
      if not script then report.fail(bad) end
      arg = table.move(args, 2, #args, 1, { [0] = file })   -- the one global, as in Lua's own interpreter
      local ok, result = xpcall(script, debug.traceback, table.unpack(args, 2))
      if not ok then report.fail(tostring(result)) end
      return math.type(result) == "integer" and result & 255 or 0
    end },
}
