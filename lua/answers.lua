--- What rules do once an answer has ended: on_response of those that were asked about its request.
local M = {}

local waiting, last = {}, 0                             -- id -> { { rule, f } … }: requests that go on
local of = setmetatable({}, { __mode = "k" })           -- request -> { id =, list =, memos = { [rule's name] = table } }

local function entry(req)
  local e = of[req]
  if not e then
    e = { memos = {}, list = {} }
    of[req] = e
  end
  return e
end

--- The tables that rules' functions share for one request: { [rule's name] = table }.
function M.memos(req) return entry(req).memos end

--- The rule is told when the request has ended, whatever becomes of it. with: rules.ask's.
function M.add(pipeline, req, rule, with)
  local e, names = entry(req), {}
  local w = { agent = with.agent, bundle = with.bundle, credential = with.credential, memos = with.memos, count = pipeline.count, warn = with.warn }
  e.list[rule.name] = { rule, pipeline, w }
  for _, one in pairs(e.list) do
    for _, name in ipairs(one[1].pol.answer) do names[name] = true end
  end
  if not e.id then
    last = last + 1
    e.id, waiting[last] = last, e.list
  end
  local list = {}
  for name in pairs(names) do list[#list + 1] = name .. "\n" end
  req:tap(e.id, table.concat(list))
end

local function objects(first, final)
  local out = {}
  for _, text in ipairs { first, final ~= first and final or "" } do
    local value = text ~= "" and require("json").decode(text)
    if type(value) == "table" then out[#out + 1] = value end
  end
  return out
end

--- C says that a request has ended. answered: an upstream's answer began; whole: and came to its end. up, down: bytes of bodies.
-- first, final: the first and the last object among those that rules want, or "".
function M.ended(id, status, answered, whole, up, down, first, final)
  local list, time = waiting[id], require "time"
  waiting[id] = nil
  for _, one in pairs(list or {}) do
    local rule, pipeline, with = one[1], one[2], one[3]
    with.wall = time.wall()
    with.offset = time.offset(with.wall)
    local why = require("rules").answered(rule, pipeline.sandbox.call,
      { status = status, answered = answered, whole = whole, up = up, down = down, objects = objects(first, final) }, with)
    if why then
      local errors = require "errors"
      pipeline.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(why))))
    end
  end
end

return M
