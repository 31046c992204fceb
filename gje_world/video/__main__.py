from gje_world.video.command import main

main()
