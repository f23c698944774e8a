from studies.pruning_random_labels.study import main

main()
