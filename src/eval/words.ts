/**
 * The words that samples are made of: those of the training package, so that a small model knows them
 * (`train/leanedge_train/words.py`); the test compares.
 */

/** Things and animals. */
export const nouns: readonly string[] = `
acorn anchor apple apron arch arrow attic badge bakery balcony ball bamboo banner barn barrel
basin basket beach bead beam bear bell bench bicycle bird blanket boat bone bonnet book boot
bottle bowl box branch bread brick bridge broom brush bucket bull button cabin cage cake camel
canal candle cannon canvas carpet cart castle cave cedar cellar chain chair chalk chapel chest
chimney church cliff cloak clock cloud clover coach coal coast coat coin comb compass copper
coral cord cotton cradle crane crow crown cup curtain dagger daisy deck desert desk diamond dish
dog donkey door dragon drawer dress drum duck dust eagle engine falcon farm feast feather fence
fern ferry fiddle field fig fire flag flame flask fleet flint flood flower flute forest forge
fork fountain fox frog frost fruit furnace galley garden gate ghost giant glass glove goat gold
goose grain grape grass gravel guitar gull hall hammer harbor harp harvest hat hawk hay hazel
hearth hedge helmet heron hill honey hook horn horse hound house icicle inn iron island ivory
ivy jacket jar jewel jungle kettle key kitchen kite knife knot ladder lake lamb lamp lantern
lark leaf leather lemon letter lily linen lion lizard lock loom maple marble market mask mast
meadow medal melon mill mine mirror mist moon moss moth mountain mouse mule needle nest net nut
oak oar ocean olive onion orange orchard otter oven owl oyster page paint palace palm paper
parrot path peach pear pearl pebble pencil penny pepper piano pigeon pillow pine pipe pistol
plain plate plough plum pocket pond pony poppy port pot prison pump purse quarry quilt rabbit
raft rain raven reed ribbon rice ring river road robin rock roof root rope rose saddle sail salt
sand scarf school sea seal seed shadow sheep shelf shell shield ship shirt shoe shovel silk
silver sled smoke snail snow soap spade sparrow spear spider spoon spring spruce squirrel stable
star statue steam steel stone storm stove stream street sugar summit sun swan sword table tailor
tea temple tent thorn thread throne thunder tiger timber tin torch tower toy trail train tree
trumpet trunk tulip tunnel turtle valley veil velvet vessel village vine violin wagon wall
walnut water wave wax well whale wheat wheel whip whistle willow wind window wine wing winter
wolf wood wool yard`
  .trim()
  .split(/\s+/);

/** What things are like. */
export const adjectives: readonly string[] = `
ancient angry black blue bold brave bright broken brown calm careful cheerful clean clear clever
cold common cool cruel curious damp dark deep distant dry dull dusty early eager empty faint
fair famous fast fierce fine firm foreign fresh gentle glad golden grand gray great green happy
hard heavy hidden high hollow honest hot huge humble hungry idle jolly keen kind large late lazy
light little lively lone lonely long loud low lucky merry mild modest narrow neat new noble odd
old open pale patient plain pleasant polite poor proud pure quick quiet rapid rare red rich ripe
rough round royal sacred sad safe secret serious sharp short shy silent silver simple slow small
smooth soft solemn sour steady still stout strange strict strong sudden sweet swift tall tame
tender thick thin tiny tired true upper useful vast violet warm weary white wide wild wise
wooden worthy yellow young`
  .trim()
  .split(/\s+/);

/** First names. */
export const firstNames: readonly string[] = `
Ada Agnes Albert Alice Amelia Amos Amy Anna Arthur Beatrice Ben Bertha Bruno Carl Carmen
Caroline Cecil Charlotte Clara Claude Colin Cora Daniel David Diana Dora Edgar Edith Edmund
Edward Eleanor Elena Elias Eliza Ella Ellen Elsa Emil Emma Eric Esther Eva Felix Fiona Flora
Frances Frank Fred George Gloria Grace Greta Hana Hannah Harold Harriet Harry Helen Henry Hugo
Ida Ines Ingrid Irene Iris Isaac Ivan Jack Jacob James Jane Jasper Jim Joan John Jonas Joseph
Josie Julia Karim Kate Kenji Laila Lars Laura Leo Lena Lily Linda Lucas Lucy Luis Mabel Maria
Marie Mark Martha Martin Mary Max Maya Mei Milo Mina Mira Molly Nadia Nell Nina Noah Nora Olga
Oliver Omar Oscar Otto Paul Paula Percy Peter Philip Priya Rachel Ralph Ravi Rita Robert Rosa
Rose Ruth Sam Samuel Sara Silas Simon Sofia Sonia Stella Susan Tara Theo Thomas Tim Tom Vera
Victor Viola Walter Wanda William Yara Yusuf Zara Zoe`
  .trim()
  .split(/\s+/);

/** Last names. */
export const surnames: readonly string[] = `
Abbott Archer Baker Barlow Bennett Bishop Black Bolton Brooks Burton Carter Clarke Cole Cooper
Crane Dawson Dixon Doyle Drake Ellis Fisher Fletcher Ford Foster Fox Gardner Gibson Grant Green
Hale Harper Hart Hayes Holmes Howard Hughes Hunt Kemp King Knight Lane Lawson Lee Marsh Mason
Mills Moore Morris Nash Newton Owen Palmer Parker Payne Porter Price Reed Rivers Rose Sharp Shaw
Stone Summers Sutton Taylor Turner Wade Walker Walsh Ward Warner Webb West White Wood Young`
  .trim()
  .split(/\s+/);

/** Cities. */
export const places: readonly string[] = `
Ashford Athens Barcelona Berlin Bergen Bombay Boston Bristol Brussels Cairo Calais Cardiff
Chester Chicago Copenhagen Cork Dover Dresden Dublin Durham Edinburgh Exeter Florence Geneva
Genoa Glasgow Granada Hamburg Hastings Helsinki Istanbul Kyoto Leeds Leipzig Lima Lisbon
Liverpool London Lyons Madrid Malta Manchester Marseilles Milan Montreal Moscow Munich Naples
Nice Norwich Oslo Oxford Palermo Paris Plymouth Porto Prague Quebec Rome Rouen Salem Seville
Stockholm Toledo Toronto Trieste Turin Venice Verona Vienna Warsaw Windsor York Zurich`
  .trim()
  .split(/\s+/);

/** What people do for a living. */
export const jobs: readonly string[] = `
baker builder carpenter clerk cook dentist doctor driver engineer farmer gardener judge lawyer
miller musician nurse painter pilot plumber poet sailor singer tailor teacher waiter writer`
  .trim()
  .split(/\s+/);

/** What people like. */
export const hobbies: readonly string[] = `
chess cooking cycling dancing drawing fishing gardening hiking painting photography pottery
reading rowing running sailing sewing singing skating swimming tennis`
  .trim()
  .split(/\s+/);

/** Colors. */
export const colors: readonly string[] = `
black blue brown gray green orange pink purple red white yellow`
  .trim()
  .split(/\s+/);

/** What people eat. */
export const foods: readonly string[] = `
apples bread cheese cherries chocolate fish honey lemons mushrooms noodles olives oranges
pancakes pasta peaches pears pie plums potatoes rice salad soup strawberries tomatoes`
  .trim()
  .split(/\s+/);

/** Pets. */
export const animals: readonly string[] = `
cat dog horse rabbit parrot pony turtle canary goat donkey hamster`
  .trim()
  .split(/\s+/);

/** Days of the week. */
export const days: readonly string[] = `
Monday Tuesday Wednesday Thursday Friday Saturday Sunday`
  .trim()
  .split(/\s+/);

/** What people go to. */
export const events: readonly string[] = `
party meeting concert dinner lesson picnic visit trip wedding dance game play lecture holiday
race festival`
  .trim()
  .split(/\s+/);

/** What people own. */
export const things: readonly string[] = `
car bicycle boat coat umbrella bag hat phone lamp sofa house door kitchen scarf suitcase
notebook`
  .trim()
  .split(/\s+/);

/** Who people are to each other. */
export const relations: readonly string[] = `
brother sister mother father uncle aunt cousin neighbor friend boss teacher grandfather
grandmother son daughter`
  .trim()
  .split(/\s+/);
