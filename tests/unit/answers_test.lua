--- What rules do with answers (lua/answers.lua): who is asked about a head, who is told of an end, what they share.
local answers, rules = require "answers", require "rules"

local pipeline = { log = function() end, count = function() return 1 end, sandbox = { call = function(_, f, ...) return pcall(f, ...) end } }

local function request()
  return { tap = function(self, id, heard, head) self.id, self.heard, self.head = id, heard, head end }
end

local function judge(name)
  return { name = name, type = name, fields = {}, pol = { on_response = function() return rules.functions.deny("no") end } }
end

local function told(name, names, list)
  return { name = name, type = name, fields = {}, pol = { answer = names, on_response = function(res, ctx) list[#list + 1] = { name, res.status, ctx.memo.n } end } }
end

-- The objects that a rule is told of, of a body that comes in these pieces.
local function objects(names, pieces)
  local id, got
  local rules, json = package.loaded.rules, package.loaded.json
  answers.add({ sandbox = {} }, { tap = function(_, one) id = one end }, { name = "r", pol = { answer = names } }, {})
  for _, piece in ipairs(pieces) do answers.heard("", id, piece) end
  package.loaded.rules = { answered = function(_, _, answer) got = answer.objects end }
  package.loaded.json = { decode = function(text) return { text } end }
  local ok, why = pcall(answers.ended, id, 200, true, true, 0, 0)
  package.loaded.rules, package.loaded.json = rules, json
  assert(ok, why)
  local out = {}
  for i, one in ipairs(got) do out[i] = one[1] end
  return table.concat(out, "\n")
end

local cases = {
  { { "usage" }, 'data: {"usage":{"a":1}}\n\ndata: {"usage" : \t{"a":{"b":[2]}}}\n\n', '{"a":1}\n{"a":{"b":[2]}}' },
  { { "usage" }, '{"usage":{"a":1},"x":{"usage":{"a":1}}}', '{"a":1}' },
  { { "usage", "use" }, '{"use":{"n":1},"usage":{"n":2},"used":{"n":3}}', '{"n":1}\n{"n":2}' },
  { { "usage" }, '{"usage":null,"usage":[{"a":1}],"v":"usage","usage":{}}', "{}" },
  { { "usage" }, '{"text":"say \\"usage\\":{\\"a\\":1}","usage":{"t":"}\\\\\\"{"}}', '{"t":"}\\\\\\"{"}' },
  { { "usage" }, '{"usage":{"t":"' .. ("x"):rep(2038) .. '"},"usage":{"a":1}}', '{"t":"' .. ("x"):rep(2038) .. '"}\n{"a":1}' },
  { { "usage" }, '{"usage":{"t":"' .. ("x"):rep(2060) .. '"},"usage":{"a":1}}', '{"a":1}' },
  { { "usage" }, '{"usage":{"a":1', "" },
}

return {
  ["a rule that is not asked any more has no say about the head; one that is told of ends is told"] = function()
    local req, list, with = request(), {}, { agent = "a", bundle = "b" }
    answers.add(pipeline, req, judge "old", with)
    answers.add(pipeline, req, told("counts", { "usage" }, list), with)
    assert(req.head == true and req.heard == true)
    assert(answers.judge("", req.id, "200\nx:y\n"):find("^rule_denied\nold\n"))
    answers.again(req)
    assert(answers.judge("", req.id, "200\nx:y\n") == "", "the rule of an earlier pass judges")
    answers.add(pipeline, req, told("other", { "usage", "x" }, list), { agent = "a", bundle = "b" })
    assert(req.head == false and req.heard == true)
    answers.heard("", req.id, '{"x":{"a":1},"usage":{"a":2}}')
    answers.ended(req.id, 200, true, true, 1, 2)
    assert(#list == 2 and list[1][1] == "counts" and list[2][1] == "other")
  end,

  ["requests that have one `with` have a memo each"] = function()
    local list, with, a, b = {}, { agent = "a", bundle = "b" }, request(), request()
    local rule = told("counts", {}, list)
    for i, req in ipairs { a, b } do
      answers.memos(req).counts = { n = i }
      answers.add(pipeline, req, rule, with)
    end
    answers.ended(b.id, 204, true, true, 0, 0)
    answers.ended(a.id, 200, true, true, 0, 0)
    assert(list[1][3] == 2 and list[1][2] == 204 and list[2][3] == 1 and list[2][2] == 200)
    answers.ended(a.id, 200, true, true, 0, 0)
    assert(#list == 2, "told twice")
  end,

  ["a rule whose answer is wanted when it has a field follows answers then alone"] = function()
    local policy = require "policy"
    local function compiled(answer)
      return policy.compile("r", ([[return { kind = "rule", api = 1, name = "r", title = "R", fields = { { name = "bytes", type = "integer" } },
        answer = %s, on_request = function() end, on_response = function() end }]]):format(answer))
    end
    local pol = assert(compiled '{ "usage", when = "bytes" }')
    local list = rules.ready({ { name = "a", type = "r", fields = {} }, { name = "b", type = "r", fields = { bytes = 1 } } },
      { load = function() return pol end }, policy, require("config").freeze)
    assert(not list[1].follows and list[2].follows == true and list[2].pol.answer[1] == "usage" and #list[2].pol.answer == 1)
    for _, wrong in ipairs { '{ when = "byte" }', '{ when = 1 }', '{ if_ = "bytes" }', '{ [2] = "usage" }', '{ "a", "b", "c", "d" }' } do
      local none, why = compiled(wrong)
      assert(not none and why, wrong)
    end
  end,

  ["the first and the last object of a wanted name are found, wherever the body is cut"] = function()
    for _, case in ipairs(cases) do
      local names, text, want = case[1], case[2], case[3]
      assert(objects(names, { text }) == want, text)
      for at = 1, #text, #text > 500 and 97 or 1 do
        assert(objects(names, { text:sub(1, at), text:sub(at + 1) }) == want, ("%d: %s"):format(at, text))
      end
      local bytes = {}
      for i = 1, #text do bytes[i] = text:sub(i, i) end
      assert(objects(names, bytes) == want, text)
    end
  end,
}
