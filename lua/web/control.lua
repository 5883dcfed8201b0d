--- The control socket: HTTP with JSON under /api/v1, for users of this machine. The kernel says who they are (SO_PEERCRED).
-- The store's owner and root may all: the page and its API, too, which are another process's, to which their connection goes on. A
-- user who is an agent's (`agent set A --uid`) may ask what this agent's jail needs, and hand over listeners for it; others nothing.
local M = {}

local BODY_MAX = 64 << 10
local NAME_MAX = 1024           -- bytes of a counter's name: bundle, rule and key
local PORTS_MAX = 28            -- listeners of a handover, less those that are no port's
local LISTENERS_MAX = 32        -- HANDOVER_MAX in proxy.c
local STREAM, DATAGRAM, IPV4, TCP, UDP = 1, 2, 2, 6, 17   -- socket(7), ip(7): the same on all of Linux's machines

local function fault(status, code, message, hint)
  return { status = status, body = { error = code, message = message, hint = hint or "" }, code = code }
end

-- Which of this process's kinds of listeners it may be | nil, why not. A datagram's socket listens to nobody.
local kinds = {
  proxy = function(s) return s.at:find("^127%.") ~= nil, "is bound to another address than 127.0.0.0/8" end,
  transparent = function(s)
    if not s.elsewhere then return false, "is in the server's own network namespace, or this kernel cannot tell (Linux 5.14 can)" end
    return s.at:find("^0%.0%.0%.0:") ~= nil or s.at:find("^198%.1[89]%.") ~= nil, "is bound to another address than 0.0.0.0 or 198.18.0.0/15"
  end,
}
kinds["dns-udp"], kinds["dns-tcp"] = kinds.proxy, kinds.proxy

-- An int of the kernel's; nil: there is none
local function number(bytes) return bytes and #bytes == 4 and (("=i4"):unpack(bytes)) end

--- Whether sockets are what the list says: { { kind = }… }, and what the kernel says of each (req:handed, the first is the
-- control connection) -> kinds | nil, why
function M.check(list, sockets)
  local out, control = {}, sockets and table.remove(sockets, 1)
  if not sockets or #list ~= #sockets then
    return nil, ("%s descriptors came, and %d are listed"):format(sockets and #sockets or "too many", #list)
  end
  for i, s in ipairs(sockets) do
    s.elsewhere = s.netns ~= nil and control.netns ~= nil and s.netns ~= control.netns
    local kind = type(list[i]) == "table" and list[i].kind
    local judge = type(kind) == "string" and kinds[kind]
    if not judge then return nil, ("listener %d: there is no such kind"):format(i) end
    local datagrams = kind == "dns-udp"
    local is = number(s.domain) == IPV4 and number(s.type) == (datagrams and DATAGRAM or STREAM) and number(s.protocol) == (datagrams and UDP or TCP)
    if not is then return nil, ("listener %d is no %s socket of IPv4"):format(i, datagrams and "UDP" or "TCP") end
    if not datagrams and number(s.listens) ~= 1 then return nil, ("listener %d does not listen"):format(i) end
    if s.at:find(":0$") then return nil, ("listener %d is bound to no port"):format(i) end
    local ok, why = judge(s)
    if not ok then return nil, ("listener %d %s"):format(i, why) end
    out[i] = kind
  end
  return out
end

-- Where the agent comes without a token: the address of a listener of its own | nil
local function own_listener(self, agent)
  local at, own = require("cli.listeners").dialled(self.config.settings.listen, agent.name)
  return own and not at:find(":0$") and require("env").reach(at) or nil
end

-- The ports at which something may be allowed, 443 and 80 first.
local function ports_of(page)
  local out, seen = { 443, 80 }, { [443] = true, [80] = true }
  for _, entry in ipairs(page.allowed) do
    for _, port in ipairs(entry.ports) do
      if not seen[port] and #out < PORTS_MAX then out[#out + 1], seen[port] = port, true end
    end
  end
  return out
end

local function params(query)
  local out = {}
  for _, p in ipairs(require("form").parse(query or "") or {}) do out[p[1]] = p[2] end
  return out
end

local function capture(self, agent, query)
  local notes, json = {}, self.json
  local port = tonumber((query.port or ""):match("^%d%d?%d?%d?%d?$"))
  local env
  if port then
    local record = self.store.peek("agent", "a/" .. agent.name) or {}
    local held, aws = require("holding").of(record, function(text) notes[#notes + 1] = text end)
    env = {}
    for _, v in ipairs(require("env").build { proxy = "127.0.0.1:" .. port, agent = agent.name, ca = query.ca or "",
      bundle = query.bundle or query.ca or "", vault = agent.first, placeholders = held, aws = aws ~= nil }) do env[v[1]] = v[2] end
  end
  local ca = self.store.peek("meta", "ca")
  if not ca or type(ca.pem) ~= "string" then return fault(503, "injection_unavailable", "the CA of this store is missing or damaged") end
  return { status = 200, body = { agent = agent.name, listener = own_listener(self, agent), public = self.config.settings.public, home = require("host").home(), ports = json.array(ports_of(self:discover(agent))), ca = ca.pem, env = env, notes = json.array(notes) } }
end

local function take_over(req, agent, body)
  local value = type(body) == "string" and require("json").decode(body)
  local list = type(value) == "table" and value.listeners
  if type(list) ~= "table" or #list == 0 or #list > LISTENERS_MAX then
    return fault(400, "bad_request", ("the body is JSON: {\"listeners\": [{\"kind\": \"proxy\"}]}, up to %d"):format(LISTENERS_MAX))
  end
  local fit, why = M.check(list, req:handed())
  if not fit then return fault(400, "bad_listener", why) end
  local handover = require "handover"
  local id = handover.begin(agent.name)
  if not id then return fault(429, "too_many", "this agent, or the server, has its share of handovers") end
  local ok, begun = pcall(req.take_over, req, agent.name, id, fit)
  if not ok then
    handover.ended(id)
    return fault(409, "bad_request", "this connection has handed over its listeners already")
  end
  if not begun then return fault(503, "injection_unavailable", "there are no descriptors or threads left for it") end
  return { status = 200, body = { listeners = #fit } }
end

-- The agent that this user is.
local function own_of(self, uid)
  local record = self.store.get("agent", require("doors").KEY)
  return record and record.uid and record.uid[tostring(uid)]
end

-- The owner's request goes on to the page's process as it came, and with it the connection: the next one is relayed unseen.
local function relay(self, req)
  local path = (self.config.overrides or {}).page
  if not path then return fault(503, "injection_unavailable", "this server has no page behind its control socket", "its standard error says why; serve --admin has one") end
  req:tunnel { host = path, raw = true }
end

local function answer(self, req, uid)
  local name, what = req.path:match("^/api/v1/agents/([^/]+)/(%l+)$")
  local methods = { capture = "GET", listeners = "POST" }
  local own = own_of(self, uid)
  if name == "~" then name = own or name end      -- whose this user is
  -- root's and the owner's word counts for all agents, and for all else
  local owner = uid == 0 or uid == require("host").uid()
  if not owner and (own == nil or own ~= name) then
    return fault(403, "forbidden", ("user %d may not do this"):format(uid), own and ("this user is agent %s's"):format(own)
      or "the store's owner and root may, and a user who is given to the agent: sallyport agent set AGENT --uid " .. uid)
  end
  if not methods[what] and owner then return relay(self, req) end
  if not methods[what] then return fault(404, "not_found", "there is no such resource") end
  if req.method ~= methods[what] then return fault(405, "method_not_allowed", methods[what] .. " is its method") end
  local agent, why = self.config:agent_named(name)
  if not agent or agent.kind == "tenant" then
    return fault(404, "agent_unknown", ("agent %s is %s"):format(name, why or "not there"), "sallyport agent list")
  end
  if req:log { agent = name, decision = "allow" } == false then
    return fault(429, "too_many", "this agent has its share of connections or requests in use")
  end
  if what == "capture" then
    return capture(self, agent, params(req.query))
  end
  local body = require("web.body").read(self, req, BODY_MAX)
  return body and take_over(req, agent, body)
end

-- GET /healthz: as on the proxy port.
local function health(self, req)
  local why = require("metrics").unready(self.store)
  return require("errors").page(req, why[1] and 503 or 200, "text/plain", why[1] and table.concat(why, "\n") .. "\n" or "ok\n")
end

-- GET /metrics: for the store's owner, root, and whoever shows a token of that scope.
local function metrics(self, req, uid, shown)
  if req.method ~= "GET" then return fault(405, "method_not_allowed", "GET is its method") end
  local tokens = require "web.api_tokens"
  local token = shown and tokens.check(shown:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +([%w_-]+)$"), require("time").wall())
  if uid ~= 0 and uid ~= require("host").uid() and not (token and tokens.allows(token.scopes, "metrics")) then
    return fault(403, "forbidden", ("user %d may not do this"):format(uid), "a token may: sallyport token add NAME --scope metrics")
  end
  return { status = 200, text = require("metrics").now(self.store) }
end

local LOOKED = 200              -- counters in one request

-- POST /counters { store =, counters = [[name, window, kept, whose share it would be of, if that is known]…] } -> { counts = [n…], ends = [Unix s…] }: what rules counted, which the workers alone
-- share. For the store's owner and root.
local function counters(self, req, uid)
  if req.method ~= "POST" then return fault(405, "method_not_allowed", "POST is its method") end
  if uid ~= 0 and uid ~= require("host").uid() then return fault(403, "forbidden", ("user %d may not do this"):format(uid)) end
  local text = require("web.body").read(self, req, BODY_MAX)
  if not text then return nil end
  local value = type(text) == "string" and require("json").decode(text)
  local list, look = type(value) == "table" and value.counters, require "counters"
  if type(list) ~= "table" or #list == 0 or #list > LOOKED then return fault(400, "bad_request", ("the body is JSON: {\"counters\": [[NAME, WINDOW, KEPT]]}, up to %d"):format(LOOKED)) end
  local store = look.store()
  if not store or value.store ~= store then return fault(409, "other_store", "the server here has another data directory") end
  local counts, ends, full = self.json.array {}, self.json.array {}, look.fullness()
  for i, c in ipairs(list) do
    local right = type(c) == "table" and (c[4] == nil or type(c[4]) == "string" and #c[4] <= NAME_MAX) and type(c[1]) == "string" and #c[1] <= NAME_MAX and look.ends(c[2], 0) and type(c[3]) == "boolean"
    if not right then return fault(400, "bad_request", ("counter %d is none"):format(i)) end
    counts[i], ends[i] = look.look(c[1], c[2], c[3])
    -- Of what nobody counted yet it is told whether it could be: -1 is "no".
    if not counts[i] then counts[i] = full(c[4]) and -1 or 0 end
  end
  return { status = 200, body = { counts = counts, ends = ends } }
end

--- pipeline.request for a request of the control socket.
function M.answer(self, req)
  local came, _, _, uid = req:came()
  if req.path == "/healthz" and (req.method == "GET" or req.method == "HEAD") then return health(self, req) end
  if req.path == "/metrics" then
    local out = metrics(self, req, uid, came.authorization)
    if out.status ~= 200 then return req:fail(out.status, out.code, out.body.message, out.body.hint, { close = true }) end
    return req:respond(200, { { "Content-Type", "text/plain; version=0.0.4; charset=utf-8" } }, out.text)
  end
  local out
  if req.path == "/counters" then out = counters(self, req, uid) else out = answer(self, req, uid) end
  if not out then return end
  if out.status ~= 200 then return req:fail(out.status, out.code, out.body.message, out.body.hint, { close = true }) end
  req:respond(200, { { "Content-Type", "application/json" } }, self.json.encode(out.body) .. "\n")
end

return M
