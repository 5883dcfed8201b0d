--- What rules do with answers: on_response of those that were asked about the request. Of a policy with `answer` it is told once the
-- answer has ended, of others it is asked about its head.
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
  local e, names, head, at = entry(req), {}, false, nil
  local w = { agent = with.agent, bundle = with.bundle, credential = with.credential, memos = with.memos, count = pipeline.count, warn = with.warn }
  for i, one in ipairs(e.list) do at = one[1].name == rule.name and i or at end
  e.list[at or #e.list + 1] = { rule, pipeline, w }
  for _, one in ipairs(e.list) do
    head = head or not one[1].pol.answer
    for _, name in ipairs(one[1].pol.answer or {}) do names[name] = true end
  end
  if not e.id then
    last = last + 1
    e.id, waiting[last] = last, e.list
  end
  local list = {}
  for name in pairs(names) do list[#list + 1] = name .. "\n" end
  req:tap(e.id, table.concat(list), head)
end

--- C asks about the head of an answer: its status, and a line "name:value" for each field. "": it goes on | code, rule, message and
-- hint, a line each.
function M.judge(_, id, text)
  local rules, headers = require "rules", {}
  for name, value in text:gmatch("\n([^\n:]*):([^\n]*)") do headers[#headers + 1] = { name, value } end
  local head = { status = math.tointeger(tonumber(text:match("^%d+"))), headers = headers }
  for _, one in ipairs(waiting[id]) do
    local rule, pipeline, with = one[1], one[2], one[3]
    if not rule.pol.answer then
      local code, message, hint, options = rules.head(rule, pipeline.sandbox.call, head, with)
      if code == "rule_failed" then
        local errors = require "errors"
        pipeline.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(options.trouble))))
      end
      if code then return ("%s\n%s\n%s\n%s"):format(code, rule.name, message, hint) end
    end
  end
  return ""
end

--- The handle is another request's from now on. gone: and nothing of this one is told.
function M.forget(req, gone)
  local e = of[req]
  if e and e.id and gone then waiting[e.id] = nil end
  of[req] = nil
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
  local list = waiting[id]
  waiting[id] = nil
  for _, one in ipairs(list or {}) do
    local rule, pipeline, with = one[1], one[2], one[3]
    with.wall = nil             -- it has moved since the head
    local why = rule.pol.answer and require("rules").answered(rule, pipeline.sandbox.call,
      { status = status, answered = answered, whole = whole, up = up, down = down, objects = objects(first, final) }, with)
    if why then
      local errors = require "errors"
      pipeline.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(why))))
    end
  end
end

return M
