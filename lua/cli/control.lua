--- The control socket as commands see it: where it is.
local M = {}

local SERVICE = "/run/sallyport/control"

--- Where it may be, the likeliest first: what is named, the service's own folder (systemd.exec(5), RuntimeDirectory=), the
-- data directory. For `serve`, the first is where it makes it.
function M.paths(ctx)
  local out = {}
  local named, service = ctx.host.getenv("SALLYPORT_CONTROL"), ctx.host.getenv("RUNTIME_DIRECTORY")
  if named and named ~= "" then out[1] = named end
  if service and service:find("^/[^:]*$") then out[#out + 1] = service .. "/control" end
  out[#out + 1] = ctx.home .. "/control"
  out[#out + 1] = SERVICE
  return out
end

return M
