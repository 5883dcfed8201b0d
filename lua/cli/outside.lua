--- How commands reach servers: as the running proxy reaches them; where none runs, as the kept settings say.
local records = require "records"
local M = {}

--- Roots, connect-to, the guard, the upstream proxy. The settings | nil, why.
function M.configure(ctx)
  local running = require("cli.home").running(ctx)
  local settings = records.settings(running and running.flags)
  local ok, why = ctx.host.configure(records.for_host(settings))
  if not ok then return nil, why end
  require("route").use(settings)
  return settings
end

return M
