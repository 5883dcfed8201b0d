--- Messages to the operator's webhook (`sallyport set webhook`): a proposal, a request that waits for a person, a credential that fails or
-- ends soon, an agent that is refused in a burst. Sent through the guard, signed, tried again with back-off; what waits is bounded.
--
-- A message names agents, rules, credentials, hosts and methods: no path, no reason, no words of an agent's. It waits in the database `lease`,
-- whq/ID { message, at, tries, due }, and is taken by whoever writes it anew first. What was told of credentials is whs { told = { [name] = why } }.
--
-- Signature: Sallyport-Signature: t=SECONDS,v1=HEX, the HMAC-SHA256 under the webhook's secret of "SECONDS.BODY".
local M = {}

local QUEUE, TOLD = "whq/", "whs"
local QUEUE_MAX = 100               -- messages that wait; a newer one is dropped, which the log says
local SEND = 10000                  -- ms for one try
local TRIES, WAIT, WAIT_MAX = 12, 5, 3600    -- tries; s before the second one, doubled each time up to an hour: some six hours in all
local RETRY_EVERY, SCAN_EVERY = 5, 60        -- s between two looks at what waits, and at credentials
local BURST, BURST_IN = 20, 300     -- refusals of an agent within so many seconds
local TEXT_MAX = 300                -- characters of a text of a provider's, or of ours
local COMMIT = 10000                -- ms
local NAMES_MAX = 200               -- credentials of which it is known what was told

local function now() return require("time").wall() end
local function clean(text) return require("web.page").clean(tostring(text), TEXT_MAX) or "" end

local function log(text)
  local write = require("host").log
  if write then write("ev=webhook " .. text) end
end

-- The webhook as it is kept: { value = origin, format, address, secrets = { target, key } } | nil
local function kept()
  local store = require "store"
  local record, format = store.get("meta", "set/webhook"), store.peek("meta", "set/webhook-format")
  if not record or not record.secrets or not record.secrets.key then return nil end
  record.format = format and format.value or "json"
  return record
end

-- ---- what is sent ----------------------------------------------------------------------------------

local function slack(text) return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })) end

local bodies = {}

function bodies.json(m) return require("json").encode(m), "application/json" end

-- Nothing of it is markup, nobody is called by it, no address in it is fetched for a preview.
function bodies.slack(m)
  return require("json").encode { text = slack(m.text .. (m.url and "\n" .. m.url or "")), mrkdwn = false, link_names = false, parse = "none",
    unfurl_links = false, unfurl_media = false }, "application/json"
end

function bodies.ntfy(m) return m.text, "text/plain; charset=utf-8" end

-- One try: true | nil, why, whether another one could help
local function send(hook, m)
  local secret, wall = require "secret", tostring(now())
  local body, kind = bodies[hook.format](m)
  local signature = "t=" .. wall .. ",v1=" .. secret.hex(secret.hmac(hook.secrets.key, "sha256", wall .. "." .. body))
  local headers = { { "Content-Type", kind }, { "User-Agent", "sallyport" }, { "Sallyport-Signature", signature } }
  if hook.format == "ntfy" then
    headers[4], headers[5] = { "Title", "Sallyport: " .. m.event }, m.url and { "Click", m.url }
  end
  local answer, code = require("route").client.request({ method = "POST", url = hook.value, target = hook.secrets.target, headers = headers, body = body,
    exact = true, addresses = hook.address and { hook.address } or nil, expect = {}, max = 64 << 10 }, require("time").now() + SEND)
  if not answer then return nil, tostring(code), true end
  if answer.status >= 200 and answer.status < 300 then return true end
  return nil, "status " .. answer.status, answer.status >= 500 or answer.status == 429 or answer.status == 408
end

-- A message that waits, taken by whoever moves its time first.
local function deliver(key)
  local store, hook = require "store", kept()
  local row = store.peek("lease", key)
  if not row or row.due > now() then return end
  if not hook then return store.write { { op = "del", db = "lease", key = key } } end
  local plain = { message = row.message, at = row.at, tries = row.tries + 1, due = now() + math.min(WAIT << row.tries, WAIT_MAX) + SEND // 1000 }
  if not store.write({ { op = "put", db = "lease", key = key, version = row.version, plain = plain } }, require("time").now() + COMMIT) then return end
  local ok, why, again = send(hook, row.message)
  if ok then log(("event=%s ok=yes"):format(row.message.event))
  else log(("event=%s err=%q try=%d%s"):format(row.message.event, why, plain.tries, (not again or plain.tries >= TRIES) and " gave_up=yes" or "")) end
  if ok or not again or plain.tries >= TRIES then store.write { { op = "del", db = "lease", key = key } } end
end

-- ---- what is told ----------------------------------------------------------------------------------

--- Tells of something: { event =, text =, url =, … }. settings: records.settings; without a webhook it does nothing. Yields.
function M.tell(settings, message)
  if not settings.webhook then return end
  local store, host = require "store", require "host"
  if #(store.each("lease", QUEUE, nil, QUEUE_MAX) or {}) >= QUEUE_MAX then return log(("event=%s err=full"):format(message.event)) end
  message.at = require("dates").iso(now())
  message.text = clean(message.text)
  local key = QUEUE .. host.sha256_hex((host.random_token ""):sub(1, 43)):sub(1, 16)
  local ok = store.write({ { op = "put", db = "lease", key = key, version = 0, plain = { message = message, at = now(), tries = 0, due = 0 } } }, require("time").now() + COMMIT)
  if ok then host.spawn(function() deliver(key) end) end
end

function M.proposal(settings, id, agent, services)
  local hosts = {}
  for i, s in ipairs(services) do hosts[i] = s.host ~= "" and s.host or s.name end
  M.tell(settings, { event = "proposal", agent = agent, id = id, hosts = require("json").array(hosts), url = require("proposals").link(settings, "p", id),
    text = ("The agent %s asks for %s. sallyport proposal show %s"):format(agent, table.concat(hosts, ", "), id) })
end

function M.question(settings, r)
  M.tell(settings, { event = "approval", agent = r.agent, id = r.question, rule = r.rule, method = r.method, host = r.host, credential = r.credential,
    url = require("proposals").link(settings, "q", r.question),
    text = ("A request of the agent %s waits for a person: %s to %s (rule %s). sallyport approval show %s"):format(r.agent, r.method, r.host, r.rule, r.question) })
end

-- ---- refusals in a burst -----------------------------------------------------------------------------

local refused = {}      -- agent -> refusals of this worker that were not counted with the others'

local on = false

function M.refused(agent)
  if on then refused[agent] = (refused[agent] or 0) + 1 end
end

-- Counts them with those of the other workers; whoever crosses the bound tells.
local function bursts(settings)
  local before = refused
  refused = {}
  for agent, n in pairs(before) do
    local all = require("host").count("webhook refused " .. agent, require("counters").ends(BURST_IN, now()), n, agent)
    if all and all >= BURST and all - n < BURST then
      M.tell(settings, { event = "refusals", agent = agent, count = all,
        text = ("The agent %s was refused %d times within %d minutes. sallyport log --denied --agent %s"):format(agent, all, BURST_IN // 60, agent) })
    end
  end
end

-- ---- credentials -------------------------------------------------------------------------------------

-- What is wrong with credentials, and what ends soon: { [what] = why }
local function troubles()
  local out, n = {}, 0
  for name, why in require("troubles").each(now(), function() require("time").sleep(0) end) do
    n = n + 1
    if n > NAMES_MAX then break end
    out[clean(name)] = clean(why)
  end
  return out
end

-- Tells what was not told yet, and forgets what is mended.
local function scan(settings)
  local store = require "store"
  local was, all, new = store.peek("lease", TOLD), troubles(), {}
  local told, changed = was and was.told or {}, false
  for name, why in pairs(all) do
    if told[name] ~= why then new[#new + 1], changed = name, true end
  end
  for name in pairs(told) do changed = changed or all[name] == nil end
  if not changed then return end
  if not store.write({ { op = "put", db = "lease", key = TOLD, version = was and was.version or 0, plain = { told = all } } }, require("time").now() + COMMIT) then return end
  table.sort(new)
  for _, name in ipairs(new) do
    M.tell(settings, { event = "credential", credential = name, why = all[name], text = ("%s: %s. sallyport status"):format(name, all[name]) })
  end
end

-- Whether this worker is the one that does it in this stretch of time.
local function mine(what, every)
  return require("host").count("webhook " .. what, require("counters").ends(every, now()), 1, "") == 1
end

local busy = false

--- Called each tick. settings: records.settings
function M.tick(settings)
  on = settings.webhook ~= nil
  if not on or busy then return end
  busy = true
  require("host").spawn(function()
    local _ <close> = setmetatable({}, { __close = function() busy = false end })
    bursts(settings)
    if mine("scan", SCAN_EVERY) then scan(settings) end
    if not mine("retry", RETRY_EVERY) then return end
    for _, row in ipairs(require("store").each("lease", QUEUE, nil, QUEUE_MAX) or {}) do
      if row.damaged then require("store").write { { op = "del", db = "lease", key = row.key } }
      elseif row.record.due <= now() then deliver(row.key) end
    end
  end)
end

return M
