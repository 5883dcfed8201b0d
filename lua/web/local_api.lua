--- What comes to the page's process by a Unix socket, which is the owner's alone: what a worker relays of the control socket
-- (web.control), and `--admin unix:PATH`. There a program of the owner's needs no token for the API. A browser does, and whatever
-- looks like one: behind `ssh -L` a page of another site could send its forms here.
local api = require "web.api"
local M = {}

-- Fields that a browser sends by itself: Fetch (Origin), Fetch Metadata (Sec-Fetch-*), RFC 6265 and RFC 9110 10.1.3.
local function of_browser(came)
  for name in pairs(came) do
    if name == "origin" or name == "cookie" or name == "referer" or name:find("^sec%-") then return true end
  end
  return came.host ~= "localhost"       -- as curl has it with --unix-socket; a name that leads here has a port, or is another
end

-- A request for the API. Where a token is shown, that is what counts.
local function asked(site, req, came)
  local body = require("web.body").read(site, req, api.BODY_MAX)
  local out = body and api.handle { home = site.home, method = req.method, path = req.path, query = req.query, header = function(name) return came[name] end,
    body = type(body) == "string" and body or "", by = not of_browser(came) and "owner" or nil, door = "control" }
  if out then req:respond(out.status, out.headers, out.body) end
end

--- The handler of the page's process: site.answer behind it. busy() -> how many requests are being answered, and for how many
-- seconds there was none.
function M.new(site, owner)
  local function now() return require("time").boot() // 1000 end     -- a machine that sleeps is idle, too
  local n, last = 0, now()
  local function done()
    n, last = n - 1, now()
  end
  local function handler(req)
    n = n + 1
    local _ <close> = setmetatable({}, { __close = done })
    local came, _, port, uid = req:came()
    if port == 0 and (uid == owner or uid == 0) and api.is(req.path) then return asked(site, req, came) end
    return site.answer(req)
  end
  return handler, function() return n, now() - last end
end

return M
